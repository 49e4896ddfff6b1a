"""The decode step of benchmarks/delta_net.py: what it moves, and in what time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from _clocks import WARM_UPS, now, step_seconds
from torch import Tensor

from minipuzzle.kernels import Kernels
from minipuzzle.kinds import DeltaNet
from minipuzzle.model.base import Context, make_block, new_slot
from minipuzzle.model.cache import Room

ROUNDS, COPY_BYTES, LAYERS, EPS = 12, 1 << 32, 4, 1e-6
BATCHES = (1, 8, 64)
"""Rows of a decode step."""


@torch.no_grad()
def decoding(kind: DeltaNet, kernels: Kernels, device: torch.device) -> list[dict[str, Any]]:
    """Milliseconds a block of a decode step, launched one by one and as a CUDA graph."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    g = torch.Generator(device=device).manual_seed(0)
    with torch.device(device):
        blocks: Sequence[Any] = [make_block(kind, EPS, kernels) for _ in range(LAYERS)]
    for block in blocks:
        for weight in block.projections.values():
            weight.weight.normal_(0.0, kind.hidden**-0.5, generator=g)
        block.reset(g)
        block.to(dtype)
    copied = copy_rate(device)
    print(f"a copy moves {copied / 1e9:.0f} GB/s, there and back")
    print(f"{'rows':>6}{'':<22}{'MB':>9}{'ms':>9}{'graph':>9}{'of copy':>9}")
    found = []
    for batch in BATCHES:
        room = Room(
            batch=batch, device=device, capacity=1, kv_dtype=dtype, state_dtype=torch.float32
        )
        slots: Sequence[Any] = [new_slot(kind, room) for _ in blocks]
        h = torch.randn(batch, 1, kind.hidden, generator=g, device=device).to(dtype)
        moved = sum(t.nbytes for t in blocks[0].parameters())
        moved += 2 * (slots[0].state.nbytes + slots[0].window.nbytes)
        for name, step in steps(kernels).items():
            for block in blocks:
                block.kernels = replace(kernels, delta_step=step)

            def run(x: Tensor = h, slots: Sequence[Any] = slots) -> Tensor:
                for block, slot in zip(blocks, slots, strict=True):
                    x = block(x, Context(slot=slot, past=1))
                return x

            eager = [seconds(run, device) for _ in range(WARM_UPS + ROUNDS)][WARM_UPS:]
            row = {"rows": batch, "step": name, "bytes": moved}
            row["ms"] = 1e3 * statistics.median(eager) / LAYERS
            row["graph_ms"] = 1e3 * step_seconds(run, device) / LAYERS
            row["of_copy"] = moved / (row["graph_ms"] / 1e3) / copied
            found.append(row)
            print(
                f"{batch:>6}  {name:<20}{moved / 1e6:>9.1f}{row['ms']:>9.3f}"
                f"{row['graph_ms']:>9.3f}{row['of_copy']:>9.1%}",
                flush=True,
            )
    return found


def steps(kernels: Kernels) -> dict[str, Callable[..., Tensor]]:
    """Ways to run one step of the rule."""
    if "fla" not in kernels.delta or "not installed" in kernels.delta:
        return {"ours": kernels.delta_step}
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    def call(q: Tensor, k: Tensor, v: Tensor, state: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        tensors = {"q": q, "k": k, "v": v, "g": g, "beta": beta}
        y, new = fused_recurrent_gated_delta_rule(
            **{name: tensor[:, None] for name, tensor in tensors.items()},
            initial_state=state,
            output_final_state=True,
        )
        state.copy_(new)
        return y[:, 0]

    return {
        "ours": kernels.delta_step,
        "ours, 8 columns": partial(kernels.delta_step, columns=8),
        "ours, 32 columns": partial(kernels.delta_step, columns=32),
        "fla's function": call,
    }


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one run."""
    began = now(device)
    run()
    return now(device) - began


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    count = COPY_BYTES if device.type == "cuda" else COPY_BYTES >> 8
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [seconds(lambda: target.copy_(source), device) for _ in range(WARM_UPS + ROUNDS)]
    return 2 * count / statistics.median(times[WARM_UPS:])
