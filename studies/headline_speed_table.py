"""The tables of speed and memory of docs/results/headline.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PAPER = {"small": {"llama-3.1-8b": 3.0, "qwen2.5-7b": 1.8}, "large": {"nemotron-h-47b": 1.2}}
"""arXiv:2504.03624, 65,536 in and 1,024 out, each at its best batch: the 8B over the Transformers,
the 47B over the 56B.
"""


GIB = 2**30


Lines = Iterator[str]


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
