r"""Tables of studies/headline{_speed,_account,,_ablation}.py, for docs/results/headline.md.

    python studies/headline_table.py --write docs/results/headline.md \
        --plot docs/results/headline.png

--write replaces what stands between the two "<!-- speed -->", "<!-- experiment -->" and "<!--
ablation -->" lines of that page, as far as there are results.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headline_tasks
import kept

from minipuzzle.artifacts import write_atomic
from minipuzzle.report.svg import save_png

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PAPER = {"small": {"llama-3.1-8b": 3.0, "qwen2.5-7b": 1.8}, "large": {"nemotron-h-47b": 1.2}}
"""arXiv:2504.03624, 65,536 in and 1,024 out, each at its best batch: the 8B over the Transformers,
the 47B over the 56B.
"""
GIB = 2**30
Lines = Iterator[str]


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


def tables(found: dict[str, Any]) -> Lines:
    """Every section that was measured."""
    for section in ("small", "large"):
        for key, result in found.get(section, {}).items():
            yield from speeds(section, key, result)
    yield from transformers(found.get("transformers", {}))
    yield from memory(found.get("memory", {}))
    yield from account(found.get("account", {}))


def speeds(section: str, key: str, result: dict[str, Any]) -> Lines:
    """Models side by side. Ratios: the hybrid over each Transformer, the 47B over the 56B, as in
    the paper.
    """
    if "error" in result:
        yield f"\n**{key} tokens in: not run**: {result['error'].splitlines()[0]}"
        return
    batch, _, tokens = key.partition(", ")
    tokens, _, held = tokens.partition(", ")
    kinds = result["dtype"] + (f", {held}" if held else "")
    yield (
        f"\n{batch}, {int(tokens):,} tokens in, {result['output']:,} out, {kinds},"
        f" {result['card']}:\n"
    )
    yield (
        "| model | batch | first token | prefill tokens/s | decode tokens/s | output tokens/s |"
        " ratio | paper |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    first = result["rows"][0]
    for row in result["rows"]:
        before, after = (first, row) if section == "large" else (row, first)
        ratio = after["tokens_per_s"] / before["tokens_per_s"]
        paper = (
            PAPER[section].get(row["name"], "") if key.startswith("largest batch, 65536") else ""
        )
        yield (
            f"| {row['name']} | {row['batch']} | {row['first_token_s']:.2f} s |"
            f" {row['prefill_tokens_per_s']:,.0f} | {row['decode_tokens_per_s']:,.1f} |"
            f" {row['tokens_per_s']:,.1f} | {'' if row is first else f'**{ratio:.2f}x**'} |"
            f" {paper and f'{paper}x'} |"
        )
    cut = [
        f"{r['name']} {r['rows_read']} of {r['batch']} rows, {r['steps']} of {result['output'] - 1}"
        " steps"
        for r in result["rows"]
        if r["rows_read"] < r["batch"] or r["steps"] < result["output"] - 1
    ]
    if cut:
        yield f"\nRun, and the rest in proportion: {'; '.join(cut)}."


def transformers(rows: dict[str, Any]) -> Lines:
    """Ours over transformers' generate."""
    if not rows:
        return
    yield (
        "\n| batch, tokens in | ours: prefill, step | transformers: prefill, step | decode ratio"
        " |\n|---|---|---|---|"
    )
    for key, ours in rows.items():
        name, _, rest = key.partition(", ")
        theirs = rows.get(f"theirs, {rest}")
        if name != "ours" or theirs is None:
            continue
        shown = [
            (
                r["error"].splitlines()[0]
                if "error" in r
                else f"{r['prefill_ms']:.1f} ms, {r['step_ms']:.2f} ms"
            )
            for r in (ours, theirs)
        ]
        ratio = (
            ""
            if "error" in ours or "error" in theirs
            else f"**{theirs['step_ms'] / ours['step_ms']:.2f}x**"
        )
        yield f"| {rest} | {shown[0]} | {shown[1]} | {ratio} |"


def memory(rows: dict[str, Any]) -> Lines:
    """Predicted against allocated."""
    if not rows:
        return
    yield (
        "\n| model, batch, tokens in | predicted | allocated | error | reserved"
        " |\n|---|---|---|---|---|"
    )
    errors = []
    for key, row in rows.items():
        if not row.get("peak_bytes"):
            yield f"| {key} | {row.get('error', 'no GPU').splitlines()[0]} | | | |"
            continue
        predicted, allocated, reserved = (
            row[k] / GIB for k in ("predicted_bytes", "peak_bytes", "reserved_bytes")
        )
        errors.append(predicted / allocated - 1)
        yield (
            f"| {key.replace('auto', str(row['batch']))} | {predicted:.2f} GiB | {allocated:.2f}"
            f" GiB | {100 * errors[-1]:+.1f} % | {reserved:.2f} GiB |"
        )
    if errors:
        yield f"\nLargest error {100 * max(map(abs, errors)):.1f} % (asked: 3 %)."


def account(found: dict[str, Any]) -> Lines:
    """Blocks against the card's ceilings, and the longest kernels."""
    if not found:
        return
    ceilings = found["ceilings"]
    yield (
        f"\nCopy {ceilings['bytes_per_s'] / 1e12:.2f} TB/s (read and written), BF16 product of"
        f" 8192^3 {ceilings['flops_per_s'] / 1e12:.0f} TFLOP/s, {ceilings['card']}."
    )
    rates = {
        name.removesuffix("_attention_flops_per_s"): rate
        for name, rate in ceilings.items()
        if "_attention_" in name
    }
    said = [
        f"{name} {'does not run' if rate is None else f'{rate / 1e12:.0f} TFLOP/s'}"
        for name, rate in rates.items()
    ]
    yield f"Causal attention, 32 query and 8 KV heads of 128, 16,384 tokens: {', '.join(said)}."
    for name, result in found.items():
        if "parts" not in result:
            continue
        yield (
            f"\n{name}, {result['work']}: {result['ms']:.2f} ms, bound {result['bound_ms']:.2f}"
            " ms:\n"
        )
        yield (
            "| part | blocks | GFLOP | GB moved | bound | measured | above the bound"
            " |\n|---|---|---|---|---|---|---|"
        )
        for p in result["parts"]:
            yield (
                f"| {p['part']} | {p['count']} | {p['flops'] / 1e9:,.1f} | {p['bytes'] / 1e9:.2f} |"
                f" {p['bound_ms']:.2f} ms ({p['bound_by']}) | {p['ms']:.2f} ms |"
                f" {p['ms'] - p['bound_ms']:.2f} ms |"
            )
        yield f"\nLargest gap: **{result['largest_gap']}**. Longest kernels (ms, calls):\n"
        for kernel, calls, ms in result["kernels"][:5]:
            yield f"- {ms:.3f} ms, {calls}: `{kernel[:44]}`"


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
