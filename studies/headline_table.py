r"""Tables of studies/headline{_speed,_account,,_ablation}.py, for docs/results/headline.md.

    python studies/headline_table.py --write docs/results/headline.md \
        --plot docs/results/headline.png

--write replaces what stands between the two "<!-- speed -->", "<!-- experiment -->" and "<!--
ablation -->" lines of that page, as far as there are results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import headline_tasks
import kept
from headline_speed_table import Lines, tables

from minipuzzle.artifacts import write_atomic
from minipuzzle.report.svg import save_png

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", type=Path, default=RESULTS / "headline_speed.json.xz")
    parser.add_argument("--experiment", type=Path, default=RESULTS / "headline_experiment.json.xz")
    parser.add_argument("--ablation", type=Path, default=RESULTS / "headline_ablation.json")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--plot", type=Path, help="what each student of the experiment retains")
    options = parser.parse_args()
    shown = {"speed": tables, "experiment": experiment, "ablation": ablation}
    for name, show in shown.items():
        file = getattr(options, name)
        if not file.exists():
            continue
        text, mark = "\n".join(show(kept.read(file))), f"<!-- {name} -->"
        if options.write is None:
            print(text)
            continue
        before, _, after = options.write.read_text().split(mark)
        write_atomic(options.write, f"{before}{mark}\n{text}\n{mark}{after}".encode())
    if options.plot is not None:
        rows = kept.read(options.experiment)["tasks"]["rows"]
        save_png(lambda axes: draw(axes, rows), options.plot, (7, 2.8))


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """A line a student: the accuracy above chance that it retains, with the 95 % of a bootstrap
    over examples.
    """
    rows = rows[:0:-1]
    for scratch, colour in ((False, "C0"), (True, "C1")):
        mine = [(y, r) for y, r in enumerate(rows) if ("from scratch" in r["name"]) == scratch]
        x = [100 * r["retained"] for _, r in mine]
        ends = [[100 * abs(r["retained_95"][e] - r["retained"]) for _, r in mine] for e in (0, 1)]
        axes.errorbar(
            x, [y for y, _ in mine], xerr=ends, fmt="o", capsize=3, markersize=4, color=colour
        )
    axes.axvline(99, color="grey", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [f"{r['name']}, {r['parameters'] / 1e6:.1f} M" for r in rows])
    axes.set(xlabel="accuracy above chance, % of the teacher's (dashed: 99 %)", xlim=(0, 105))


def experiment(found: dict[str, Any]) -> Lines:
    """Teacher, students and the same shapes from scratch; then what was chosen, and the time of
    each stage.
    """
    yield ""
    yield from headline_tasks.table(found["tasks"])
    yield (
        "\n| run | winner | pattern | loss at each rate | after the short runs | before and after"
        " the long one | its tokens |"
    )
    yield "|---" * 7 + "|"
    patterns = {row["name"]: row["pattern"] for row in found["tasks"]["rows"]}
    for name, run in found["distilled"].items():
        rates, losses = (
            ", ".join(f"{k} {v:.4f}" for k, v in run[which].items())
            for which in ("rate_validation_loss", "short_validation_loss")
        )
        pattern = patterns.get(name.replace("-seed", ", seed ").replace("-memory", ", memory"), "")
        before, after = run["long_validation_loss"]
        yield (
            f"| {name} | {run['winner']} | `{pattern}` | {rates} | {losses} | {before:.4f},"
            f" {after:.4f} | {run['tokens']:,} |"
        )
    seconds = {name: stage["seconds"] for name, stage in found["stages"].items()}
    yield (
        f"\nSeconds: {', '.join(f'{name} {s:.0f}' for name, s in seconds.items())}; together"
        f" {sum(seconds.values()):.0f}."
    )


def ablation(found: dict[str, Any]) -> Lines:
    """A row a student with what was changed for it, beside the teacher; the seconds are of its
    stages.
    """
    models = {row["name"]: row for row in found["tasks"]["rows"]}
    teacher = found["tasks"]["rows"][0]
    groups = list(teacher["losses"])
    yield (
        "\n| row | changed | pattern | parameters | tokens | seconds | "
        + " | ".join(f"loss {g}, KL" for g in groups)
        + " | average | retained (95 %) |"
    )
    yield "|---" * (8 + len(groups)) + "|"
    for name, model in models.items():
        row = found["rows"].get(name, {})
        seconds = sum(
            found["stages"].get(f"{stage} {name}", {"seconds": 0.0})["seconds"]
            for stage in ("search", "distill")
        )
        cells = [
            name,
            row.get("change", "" if model is teacher else "as in the experiment"),
            f"`{model['pattern']}`",
            f"{model['parameters']:,}",
            f"{row['tokens']:,}" if row else "",
            f"{seconds:.0f}" if row else "",
        ]
        for g in groups:
            own, other = model["losses"][g], teacher["losses"][g]["loss"]
            change = (
                ""
                if model is teacher
                else f" ({100 * (own['loss'] / other - 1):+.2f} %), {own['kl']:.4f}"
            )
            cells.append(f"{own['loss']:.4f}{change}")
        low, high = model.get("retained_95", (0.0, 0.0))
        cells += (
            [
                f"{model['average']:.4f}",
                f"{100 * model['retained']:.2f} % ({100 * low:.2f} to {100 * high:.2f})",
            ]
            if model["counted"]
            else ["", ""]
        )
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
