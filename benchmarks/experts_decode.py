"""Milliseconds of a decode step of routed experts, for ``benchmarks/experts.py``."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.kernels import choose, experts
from minipuzzle.kernels.grouped import gathered
from minipuzzle.kernels.pointwise import replayed
from minipuzzle.kernels.routing import Routing, route

WARM_UPS, REPLAYS = 3, 50
SCALING = 2.5
DECODED = (1, 8, 64)
"""Tokens of a decode step."""


@torch.no_grad()
def decoding(module: Any, x: Tensor, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of the experts alone for few tokens."""
    up, down = module.experts.up_proj, module.experts.down_proj
    ways: dict[str, Callable[..., Tensor]] = {
        "ours": choose(x.device).run_experts,
        "gathered": partial(experts.run_experts, product=gathered),
    }
    routing = Routing(router="sigmoid", top_k=options.top_k, normalised=True, scaling=SCALING)
    found = []
    print(f"\n{'tokens':>6}{'experts':>9}" + "".join(f"{f'{n} ms':>14}{'GB/s':>8}" for n in ways))
    for tokens in DECODED:
        part = x[0, :tokens].contiguous()
        logits = F.linear(part.float(), module.gate.weight.float())
        weights, chosen = route(logits, routing)
        read = len(chosen.unique())
        row: dict[str, Any] = {"tokens": tokens, "experts": read}
        size = read * 2 * options.hidden * options.width * x.element_size()
        for name, run in ways.items():
            step = partial(run, part, up, down, weights, chosen, "relu2", False)
            seconds = step_seconds(step, x.device)
            row[name] = {"ms": 1e3 * seconds, "gb_s": size / seconds / 1e9}
        found.append(row)
        cells = "".join(f"{row[n]['ms']:>14.3f}{row[n]['gb_s']:>8.0f}" for n in ways)
        print(f"{tokens:>6}{read:>9}{cells}", flush=True)
    return found


def step_seconds(step: Callable[[], Tensor], device: torch.device) -> float:
    """Median of REPLAYS steps; a CUDA graph's where there is one."""
    run: Callable[[], Any] = step
    if device.type == "cuda":
        side = torch.cuda.Stream()
        with replayed(), torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with replayed(), torch.cuda.graph(graph, stream=side):
            step()
        run = graph.replay
    seconds = []
    for _ in range(WARM_UPS + REPLAYS):
        began = now(device)
        run()
        seconds.append(now(device) - began)
    return statistics.median(seconds[WARM_UPS:])


def now(device: torch.device) -> float:
    """Seconds, when all that was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
