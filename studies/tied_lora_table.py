r"""Tables and plots of studies/tied_lora.py.

    python studies/tied_lora_table.py tied_lora.json --write docs/results/tied_lora.md \
        --plot docs/results/tied_lora.png         --keep docs/results/tied_lora.csv.xz

--write replaces what stands between the two "<!-- table -->" lines of that page, --keep leaves a
line for each run at the chosen rates and each long one.
"""

from __future__ import annotations

import argparse
import csv
import lzma
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import read_json

MARK = "<!-- table -->"
ORDER = (
    "full",
    "lora",
    "peft lora",
    "tl5",
    "tl6",
    "vera",
    "peft vera",
    "tied:B",
    "tied:B,u,v",
    "tied:A,u,v",
)
Rows = list[dict[str, Any]]


def main() -> None:
    """Print or write the tables, and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    found = read_json(options.results)
    rows = final_rows(found["results"])
    parts = [
        facts(found),
        *(task_table(task, rows) for task in tasks(rows)),
        verdicts(rows),
        recovery(found["results"]),
    ]
    text = "\n\n".join(parts)
    if options.write is None:
        print(text)
    else:
        before, _, after = options.write.read_text().split(MARK)
        options.write.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}")
    if options.plot is not None:
        plot(rows, options.plot)
    if options.keep is not None:
        long = [r for r in found["results"] if r["run"]["steps"] > usual(found["results"])]
        keep([r for runs in rows.values() for r in runs] + long, options.keep)


def usual(results: Rows) -> int:
    """Steps of the usual runs; the recovery table's are longer."""
    return min(r["run"]["steps"] for r in results)


def final_rows(results: Rows) -> dict[tuple[str, str, int], Rows]:
    """(task, adapter, rank) -> the runs at the rate that was best with seed 0 on the half that
    chooses.
    """
    cells: dict[tuple[str, str, int], Rows] = defaultdict(list)
    for r in results:
        if r["run"]["steps"] == usual(results):
            cells[r["run"]["task"], r["run"]["adapter"], r["run"]["rank"]].append(r)
    chosen = {}
    for cell, runs in cells.items():
        first = [r for r in runs if r["run"]["seed"] == 0]
        if first:
            rate = max(first, key=lambda r: r["after"]["choice"])["run"]["rate"]
            chosen[cell] = [r for r in runs if r["run"]["rate"] == rate]
    return chosen


def tasks(rows: dict[tuple[str, str, int], Rows]) -> list[str]:
    """In order of appearance."""
    return list(dict.fromkeys(task for task, _, _ in rows))


def facts(found: dict[str, Any]) -> str:
    """A line on where and how long."""
    one = found["results"][0]["run"]
    return (
        f"{found['device']}, torch {found['torch']}, kernels {found['kernels']}, PEFT"
        f" {found['peft'] or 'absent'}; {len(found['results'])} runs of {usual(found['results'])}"
        f" steps x {one['batch']} x 512 tokens."
    )


def task_table(task: str, rows: dict[tuple[str, str, int], Rows]) -> str:
    """One row a combination and rank."""
    before = next(r for (t, _, _), runs in rows.items() if t == task for r in runs)["before"][
        "report"
    ]
    lines = [
        f"**{task}**: {show(task, before)} before.",
        "",
        (
            "| combination | rank | trained | of LoRA | adapter bytes | rate | "
            f"{'loss, nats/token' if before < 0 else 'exact match'} | seeds | ms a step | MiB |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells = [(a, r, runs) for (t, a, r), runs in rows.items() if t == task]
    for adapter, rank, runs in sorted(cells, key=lambda c: (c[1], ORDER.index(c[0]))):
        one, values = runs[0], [r["after"]["report"] for r in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        spread = (
            ""
            if deviation is None
            else f" ± {deviation:.4f}"
            if before < 0
            else f" ± {100 * deviation:.1f}"
        )
        share = "" if adapter == "full" else f"{one['trainable'] / one['lora']:.1%}"
        lines.append(
            f"| {adapter} | {rank or ''} | {one['trainable']:,} | {share} | {one['bytes']:,} |"
            f" {one['run']['rate']:g} | {show(task, statistics.fmean(values))}{spread} |"
            f" {len(values)} |"
            f" {1e3 * statistics.median(r['seconds'] / r['run']['steps'] for r in runs):.0f} |"
            f" {mebibytes(runs):,.0f} |"
        )
    return "\n".join(lines)


def verdicts(rows: dict[tuple[str, str, int], Rows]) -> str:
    """TL6 against LoRA at each task and rank: how much of LoRA's gain it keeps."""
    lines = [
        (
            "**Does the paper's finding hold?** How much of LoRA's gain over the untrained model"
            " each keeps."
        ),
        "",
        "| task | rank | LoRA | TL6 | TL6's parameters | TL6 keeps | TL5 keeps | VeRA keeps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in tasks(rows):
        for rank in sorted({r for t, a, r in rows if t == task and a == "lora"}):
            lora, tl6 = rows[task, "lora", rank], rows.get((task, "tl6", rank))
            if tl6:
                kept = [keeps(rows, task, a, rank) for a in ("tl6", "tl5", "vera")]
                lines.append(
                    f"| {task} | {rank} | {show(task, mean(lora))} | {show(task, mean(tl6))} | "
                    f"{tl6[0]['trainable'] / lora[0]['trainable']:.1%} | {' | '.join(kept)} |"
                )
    return "\n".join(lines)


def recovery(results: Rows) -> str:
    """The longer runs on the pruned students."""
    long = [r for r in results if r["run"]["steps"] > usual(results)]
    lines = [
        "**Recovery of the pruned students** by distillation from the teacher.",
        "",
        (
            "| student | trained | parameters | tokens | loss before | loss after | KL | agreement"
            " | s | MiB |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str], Rows] = defaultdict(list)
    for r in long:
        cells[r["run"]["task"].split()[1], r["run"]["adapter"]].append(r)
    for (student, adapter), runs in cells.items():
        one, values = runs[0], [-r["after"]["report"] for r in runs]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        name = "all weights" if adapter == "full" else f"{adapter}, rank {one['run']['rank']}"
        lines.append(
            f"| {student} | {name} | {one['trainable']:,} | {one['tokens']:,} |"
            f" {-one['before']['report']:.4f} | {statistics.fmean(values):.4f}{spread} |"
            f" {statistics.fmean(r['after']['kl'] for r in runs):.4f} |"
            f" {statistics.fmean(r['after']['agreement'] for r in runs):.1%} |"
            f" {statistics.median(r['seconds'] for r in runs):.0f} | {mebibytes(runs):,.0f} |"
        )
    return "\n".join(lines)


def keeps(rows: dict[tuple[str, str, int], Rows], task: str, adapter: str, rank: int) -> str:
    """A combination's gain as a share of LoRA's, where both were run and LoRA gained anything."""
    if (task, adapter, rank) not in rows:
        return ""
    lora = gain(rows, task, "lora", rank)
    return f"{gain(rows, task, adapter, rank) / lora:.0%}" if lora > 0 else "LoRA gained nothing"


def gain(rows: dict[tuple[str, str, int], Rows], task: str, adapter: str, rank: int) -> float:
    """What training gained over the untrained model."""
    runs = rows[task, adapter, rank]
    return mean(runs) - float(runs[0]["before"]["report"])


def mebibytes(runs: Rows) -> float:
    """Peak memory, the least of the seeds': a worker's first run also holds what Triton tunes
    with.
    """
    return min(r["memory"] for r in runs) / 2**20


def keep(results: Rows, path: Path) -> None:
    """A line a run: its score on the half that is reported (losses negative)."""
    with lzma.open(path, "wt", preset=9, newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("task", "adapter", "rank", "seed", "rate", "steps", "report"))
        order = ("task", "adapter", "rank", "rate", "seed", "steps")
        for r in sorted(results, key=lambda r: [str(r["run"][k]) for k in order]):
            run = r["run"]
            rows.writerow(
                (
                    run["task"],
                    run["adapter"],
                    run["rank"],
                    run["seed"],
                    f"{run['rate']:g}",
                    run["steps"],
                    f"{r['after']['report']:.4f}",
                )
            )


def mean(runs: Rows) -> float:
    """Over the seeds."""
    return statistics.fmean(r["after"]["report"] for r in runs)


def show(task: str, value: float) -> str:
    """Accuracy in per cent, or a loss."""
    return f"{-value:.4f}" if task.startswith("recovery") else f"{value:.1%}"


def plot(rows: dict[tuple[str, str, int], Rows], path: Path) -> None:
    """Quality against trained parameters, a panel a task, a line a combination."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = tasks(rows)
    figure, panels = pyplot.subplots(
        1, len(names), figsize=(3 * len(names), 3.4), squeeze=False, layout="constrained"
    )
    for panel, task in zip(panels[0], names, strict=True):
        for adapter in ORDER:
            cells = sorted(
                (runs[0]["trainable"], mean(runs))
                for (t, a, _), runs in rows.items()
                if (t, a) == (task, adapter)
            )
            if cells:
                style = "x" if adapter.startswith("peft") else "o-"
                panel.plot(
                    *zip(*cells, strict=True), style, label=adapter, markersize=4, linewidth=1
                )
        panel.set(
            title=task,
            xscale="log",
            xlabel="trained parameters",
            ylabel="minus loss, nats/token" if task.startswith("recovery") else "exact match",
        )
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
