"""Tables and picture of a study of cuts, from its cases."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from cuts import SEEDS, Case, Study

from minipuzzle.report.svg import save_png

Result = dict[str, Any]


def results(study: Study, root: Path) -> dict[tuple[str, str], list[Result]]:
    """(row, budget) -> a result a seed, each at the row's own rate."""
    found: dict[tuple[str, str], list[Result]] = {}
    for row in study.rows:
        for budget in study.budgets:
            tried = [Case(row=row.name, budget=budget, rate=r, seed=SEEDS[0]) for r in study.rates]
            others = [Case(row=row.name, budget=budget, rate=0.0, seed=s) for s in SEEDS[1:]]
            first = [_read(case, root) for case in tried if case.path(root).exists()]
            rest = [_read(case, root) for case in others if case.path(root).exists()]
            if first:
                best = min(first, key=lambda result: result["choice"])
                found[row.name, budget] = [best, *rest]
    return found


def write_table(study: Study, root: Path) -> None:
    """Print the tables as Markdown, write all cases beside each other and the picture."""
    found = results(study, root)
    teacher = next(iter(found.values()))[0]["teacher"]
    print(f"Teacher: {teacher['loss']:.4f} nats a token (prose {_domain(teacher, 'prose'):.4f}, "
          f"code {_domain(teacher, 'code'):.4f})\n")  # fmt: skip
    head = [
        "budget",
        "cut",
        "total M",
        "active M",
        "before",
        "after",
        "prose",
        "code",
        "KL",
        "seeds",
    ]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for budget in study.budgets:
        rows = [(row.name, found.get((row.name, budget), [])) for row in study.rows]
        for name, cases in sorted((r for r in rows if r[1]), key=lambda r: _mean(r[1], "loss")):
            print(_line(budget, name, cases, teacher))
    everything = [json.loads(p.read_text()) for p in sorted((root / "cases").glob("*.json"))]
    (root / f"{study.name}.json").write_text(json.dumps(everything, indent=1) + "\n")
    save_png(lambda axes: draw(axes, study, found, teacher), root / f"{study.name}.png", (9, 4))


def draw(
    axes: Any, study: Study, found: dict[tuple[str, str], list[Result]], teacher: Result
) -> None:
    """Loss above the teacher after distillation, a group of bars a budget, seeds as whiskers."""
    width = 0.8 / len(study.rows)
    for place, row in enumerate(study.rows):
        for group, budget in enumerate(study.budgets):
            cases = found.get((row.name, budget))
            if not cases:
                continue
            losses = [100 * (c["after"]["loss"] / teacher["loss"] - 1) for c in cases]
            middle, x = statistics.mean(losses), group + place * width
            error = [[middle - min(losses)], [max(losses) - middle]]
            label = row.name if (row.name, budget) == _first(found, row.name) else None
            axes.bar(x, middle, width, yerr=error, color=f"C{place}", label=label)
    axes.set_xticks([group + 0.4 for group in range(len(study.budgets))], study.budgets)
    axes.set_ylabel("loss above the teacher's, %")
    axes.legend(ncols=len(study.rows) // 2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _first(found: dict[tuple[str, str], list[Result]], row: str) -> tuple[str, str] | None:
    return next((key for key in found if key[0] == row), None)


def _line(budget: str, name: str, cases: list[Result], teacher: Result) -> str:
    after = [case["after"]["loss"] for case in cases]
    spread = 50 * (max(after) - min(after)) / teacher["loss"]
    cells = [
        budget,
        name,
        f"{cases[0]['parameters'] / 1e6:.1f}",
        f"{cases[0]['active'] / 1e6:.1f}",
        f"{_percent(_mean(cases, 'loss', 'before'), teacher['loss'])}",
        f"{_percent(statistics.mean(after), teacher['loss'])} ± {spread:.2f}",
        *(
            _percent(statistics.mean(_domain(c["after"], d) for c in cases), _domain(teacher, d))
            for d in ("prose", "code")
        ),
        f"{_mean(cases, 'kl'):.4f}",
        str(len(cases)),
    ]
    return "| " + " | ".join(cells) + " |"


def _mean(cases: list[Result], what: str, when: str = "after") -> float:
    return statistics.mean(case[when][what] for case in cases)


def _domain(result: Result, domain: str) -> float:
    return float(next(value for name, value in result.items() if name.startswith(domain)))


def _percent(value: float, whole: float) -> str:
    return f"{100 * (value / whole - 1):+.2f} %"


def _read(case: Case, root: Path) -> Result:
    result: Result = json.loads(case.path(root).read_text())
    return result
