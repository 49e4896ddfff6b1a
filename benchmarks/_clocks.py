"""Seconds and bytes of something run again and again, launched one by one or as a CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minipuzzle.kernels.pointwise import replayed

WARM_UPS, GRAPHS, STEPS = 3, 24, 50
"""Runs before those that count, replays of a training step and steps of decoding."""
Run = Callable[[Tensor], Tensor]


def graph_seconds(run: Run, module: Any, x: Tensor, gradient: Tensor) -> float:
    """Forward and backward replayed as one CUDA graph, which makes its gradients anew."""
    leaf, graph = x.detach().requires_grad_(), torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run(leaf).backward(gradient)
            module.zero_grad(set_to_none=True)
            leaf.grad = None
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        run(leaf).backward(gradient)
    times = []
    for _ in range(GRAPHS):
        began = now(x.device)
        graph.replay()
        times.append(now(x.device) - began)
    module.zero_grad(set_to_none=True)
    return statistics.median(times)


def step_seconds(step: Callable[[], Tensor], device: torch.device) -> float:
    """Median of STEPS steps; a CUDA graph's where there is one."""
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
    for _ in range(WARM_UPS + STEPS):
        began = now(device)
        run()
        seconds.append(now(device) - began)
    return statistics.median(seconds[WARM_UPS:])


def now(device: torch.device) -> float:
    """Seconds, when all that was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def allocated(device: torch.device, module: Any) -> int:
    """Bytes allocated now; the peak is counted from here."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
