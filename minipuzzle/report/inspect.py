"""What ``minipuzzle inspect`` shows of an architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.held import Quantised
from minipuzzle.kinds import KINDS
from minipuzzle.memory import Workload, resident
from minipuzzle.report.pattern import legend, pattern_text
from minipuzzle.units import bytes_, count, percent, sized


def inspect_json(
    architecture: Architecture,
    workload: Workload,
    quantised: Quantised | None = None,
    copied: Sequence[str] = (),
) -> dict[str, Any]:
    """The same facts for scripts; memory in bytes."""
    used, active = resident(architecture, workload), architecture.active_if_fewer
    return {
        "pattern": architecture.pattern,
        "blocks": len(architecture.blocks),
        "hidden_size": architecture.hidden,
        "vocab_size": architecture.vocab_size,
        "parameters": architecture.parameters,
        **({} if active is None else {"active": active}),
        **({"mtp_parameters": architecture.mtp_parameters} if architecture.mtp else {}),
        **({"copied": list(copied)} if copied else {}),
        "counts": {kind: architecture.count(kind) for kind in KINDS},
        "homogeneous": architecture.homogeneous,
        "not_pruned": architecture.rules.sentences(),
        **({} if quantised is None else {"quantised": asdict(quantised)}),
        "workload": asdict(workload),
        "memory": {**used.terms, "total": used.total},
    }


def inspect_view(
    title: str,
    architecture: Architecture,
    workload: Workload,
    quantised: Quantised | None = None,
    copied: Sequence[str] = (),
) -> RenderableType:
    """Layer pattern, parameters by kind of block, memory by part; ``copied``: how the names begin
    of tensors that are no text.
    """
    total = architecture.parameters
    active = architecture.active_if_fewer
    headline = f"{title}: {sized(total, active)} in {len(architecture.blocks)} blocks"
    parts = Table(title=headline, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("part", "blocks", "sizes"):
        parts.add_column(column, justify="right" if column == "blocks" else "left")
    for column in ("parameters", "share", *(() if active is None else ("active",))):
        parts.add_column(column, justify="right")

    def add(name: str, blocks: str, sizes: str, held: int, used: int) -> None:
        last = () if active is None else (count(used),)
        parts.add_row(name, blocks, sizes, count(held), percent(held, total), *last)

    for kind in architecture.kinds:
        blocks = [b for b in architecture.blocks if b.kind == kind]
        size = sum(block.parameters for block in blocks)
        chosen = sum(block.active_parameters for block in blocks)
        sizes = "; ".join(sorted({_sizes(b.sizes) for b in blocks})[:3])
        add(KINDS[kind].label, str(len(blocks)), sizes, size, chosen)
    rest = total - sum(block.parameters for block in architecture.blocks)
    sizes = f"{architecture.vocab_size:,} tokens x {architecture.hidden}" + (
        ", tied" if architecture.tied_head else ""
    )
    add("embedding, head, norm", "", sizes, rest, rest)
    used = resident(architecture, workload)
    parts_of_memory = Table(
        title=(
            f"memory: {workload.batch} x {workload.context:,} tokens, weights {workload.weights}, "
            f"KV {workload.kv}, SSM {workload.state}"
        ),
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("weights", "KV", "SSM states", "convolution", "total"):
        parts_of_memory.add_column(name, justify="right")
    parts_of_memory.add_row(*(bytes_(v) for v in (*used.terms.values(), used.total)))
    apart = [Text(_mtp(architecture))] if architecture.mtp else []
    apart += [
        Text(f"{prefix}* is no text: copied as it is, neither counted nor run nor trained")
        for prefix in copied
    ]
    kept = _cache(architecture, workload, quantised)
    rules = [Text(f"not pruned: {sentence}") for sentence in architecture.rules.sentences()]
    return Group(
        pattern_text(architecture.pattern),
        Text(legend(architecture.pattern), style="dim"),
        parts,
        parts_of_memory,
        *([] if quantised is None else [Text(_files(quantised))]),
        *([] if kept is None else [Text(kept)]),
        *apart,
        *rules,
    )


def _files(found: Quantised) -> str:
    """How quantised files hold the weights, in a line."""
    parts = ", ".join(f"{dtype} {bytes_(size)}" for dtype, size in found.bytes.items())
    whole = f" {bytes_(sum(found.bytes.values()))} ({parts})," if found.bytes else ""
    if found.bytes and found.seen is None:
        return f"the files:{whole} not quantised, though config.json says so ({found.said})"
    how = f"quantised ({found.said or found.seen})"
    read = "read as weights" if found.read else "not a format that minipuzzle reads"
    return f"the files:{whole} {how}: {read}"


def _cache(architecture: Architecture, workload: Workload, found: Quantised | None) -> str | None:
    """How engines are to cache keys and values by the files, and what that takes."""
    if found is None or found.kv is None:
        return None
    used = resident(architecture, replace(workload, kv=found.kv))
    return (
        f"keys and values: {found.kv} by the files' scales, {bytes_(used['kv'])} at this workload"
    )


def _mtp(architecture: Architecture) -> str:
    """Multi-token prediction in a line."""
    steps = len(architecture.mtp)
    pattern = "".join(block.letter for block in architecture.mtp[0])
    return (
        f"multi-token prediction: {count(architecture.mtp_parameters)} parameters beside these, "
        f"{steps} step{'s' if steps > 1 else ''} of {pattern}; kept, its hidden size cut with the "
        "model's, neither run nor trained"
    )


def _sizes(sizes: dict[str, int]) -> str:
    skipped = ("hidden", "one", "kernel", "query_and_gate")
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items() if axis not in skipped)
