"""What ``minipuzzle inspect`` shows of an architecture."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minipuzzle.arch import Architecture
from minipuzzle.kinds import KINDS
from minipuzzle.memory import Workload, resident
from minipuzzle.report.pattern import legend, pattern_text
from minipuzzle.units import bytes_, count, percent


def inspect_json(architecture: Architecture, workload: Workload) -> dict[str, Any]:
    """The same facts for scripts; memory in bytes."""
    used = resident(architecture, workload)
    return {
        "pattern": architecture.pattern,
        "blocks": len(architecture.blocks),
        "hidden_size": architecture.hidden,
        "vocab_size": architecture.vocab_size,
        "parameters": architecture.parameters,
        "counts": {kind: architecture.count(kind) for kind in KINDS},
        "homogeneous": architecture.homogeneous,
        "not_pruned": architecture.rules.sentences(),
        "workload": asdict(workload),
        "memory": {**used.terms, "total": used.total},
    }


def inspect_view(title: str, architecture: Architecture, workload: Workload) -> RenderableType:
    """Layer pattern, parameters by kind of block, memory by part."""
    total = architecture.parameters
    headline = f"{title}: {total:,} parameters in {len(architecture.blocks)} blocks"
    parts = Table(title=headline, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("part", "blocks", "sizes"):
        parts.add_column(column, justify="right" if column == "blocks" else "left")
    parts.add_column("parameters", justify="right")
    parts.add_column("share", justify="right")
    for kind in architecture.kinds:
        blocks = [b for b in architecture.blocks if b.kind == kind]
        size = sum(block.parameters for block in blocks)
        sizes = "; ".join(sorted({_sizes(b.sizes) for b in blocks})[:3])
        parts.add_row(KINDS[kind].label, str(len(blocks)), sizes, count(size), percent(size, total))
    rest = total - sum(block.parameters for block in architecture.blocks)
    sizes = f"{architecture.vocab_size:,} tokens x {architecture.hidden}" + (
        ", tied" if architecture.tied_head else ""
    )
    parts.add_row("embedding, head, norm", "", sizes, count(rest), percent(rest, total))
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
    rules = [Text(f"not pruned: {sentence}") for sentence in architecture.rules.sentences()]
    return Group(
        pattern_text(architecture.pattern),
        Text(legend(architecture.pattern), style="dim"),
        parts,
        parts_of_memory,
        *rules,
    )


def _sizes(sizes: dict[str, int]) -> str:
    skipped = ("hidden", "one", "kernel")
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items() if axis not in skipped)
