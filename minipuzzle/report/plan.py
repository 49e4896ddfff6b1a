"""The table of ``minipuzzle distill --plan``."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from minipuzzle.cost.distill_plan import WITH, WITHOUT, DistillPlan
from minipuzzle.units import both, bytes_, count


def distill_plan_view(plan: DistillPlan) -> RenderableType:
    """GPUs against memory, speed and days; then the terms on the fewest 80 GB GPUs."""
    models = (plan.teacher, plan.student)
    sizes = [" with ".join(both(m.parameters, m.active_if_fewer, " active")) for m in models]
    title = (
        f"{sizes[0]} -> {sizes[1]},"
        f" {count(plan.tokens)} tokens of length {_lengths(plan)}, {plan.micro_batch} at"
        f" once on {'a GPU' if plan.context_parallel == 1 else f'{plan.context_parallel} GPUs'},"
        f" {plan.flops_per_token / 1e9:,.0f} GFLOP a token, MFU {plan.mfu:.0%}"
        f" of {plan.device.upper()}: {plan.gpu_hours():,.0f} GPU hours (an estimate, not"
        " measured)"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("GPUs", "a GPU, checkpointing", "a GPU, all kept", "tokens/s", "days"):
        table.add_column(name, justify="right")
    rows = plan.rows
    shows_whole = any(any(row.whole.values()) for row in rows)
    if shows_whole:
        table.add_column("whole on each")
    if plan.offload:
        table.add_column("CPU memory for each", justify="right")
    if plan.links:
        table.add_column("arithmetic, exchange", justify="right")
    for row in rows:
        table.add_row(
            f"{row.gpus}",
            *(bytes_(row.bytes[c]) for c in (WITH, WITHOUT)),
            f"{row.tokens_per_second:,.0f}",
            f"{row.days:,.1f}",
            *(
                ["; ".join(dict.fromkeys(what or "nothing" for what in row.whole.values()))]
                if shows_whole
                else []
            ),
            *([] if row.cpu_bytes is None else [bytes_(row.cpu_bytes)]),
            *([] if row.exchange is None else [f"{row.seconds:.2f} s, {row.exchange:.2f} s"]),
        )
    lines = [
        f"{card} cards: at least {found[WITH] or 'over 1024'} GPUs with activation"
        f" checkpointing, {found[WITHOUT] or 'over 1024'} without"
        for card, found in plan.least.items()
    ]
    disk = ", ".join(f"{name} {bytes_(size)}" for name, size in plan.disk().items())
    return Group(
        table,
        *lines,
        f"\non {plan.shown_on} GPUs with activation checkpointing each holds:",
        plan.peak(plan.shown_on, checkpointing=True).table() + "\n",
        *_offloaded(plan),
        f"disk for one candidate: {bytes_(sum(plan.disk().values()))} ({disk})",
    )


def _offloaded(plan: DistillPlan) -> list[str]:
    """What lies in the CPU's memory, and what that moves."""
    held = plan.cpu_peak(plan.shown_on)
    if held is None:
        return []
    up, down = map(bytes_, plan.over_pcie(plan.shown_on))
    return [
        f"and the CPU's memory for each:\n{held.table()}\n",
        f"a micro-batch moves {up} to each GPU and {down} from it; neither that nor the step on the"
        " CPU is counted in the time\n",
    ]


def _lengths(plan: DistillPlan) -> str:
    """The longest's memory is shown, and the mean token's arithmetic."""
    shares = ", then ".join(f"{n:,} ({share:.0%})" for n, share in plan.lengths)
    return shares or f"{plan.length:,}"
