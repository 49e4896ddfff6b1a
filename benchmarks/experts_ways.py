"""The ways of benchmarks/experts.py to run one block of experts, and its clocks."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minipuzzle.kernels import Kernels
from minipuzzle.kinds import Experts
from minipuzzle.model.base import Context, make_block

REPLAYS, WARM_UPS = 24, 3
SCALING = 2.5
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
    for _ in range(REPLAYS):
        began = now(x.device)
        graph.replay()
        times.append(now(x.device) - began)
    module.zero_grad(set_to_none=True)
    return statistics.median(times)


def ours(module: Any, options: argparse.Namespace, kernels: Kernels) -> Run:
    """Our block's mixer, with transformers' parameters."""
    kind = Experts(
        hidden=options.hidden,
        experts=options.experts,
        top_k=options.top_k,
        expert_width=options.width,
        shared_width=options.shared,
        scaling=SCALING,
    )
    with torch.device("meta"):
        made: Any = make_block(kind, 1e-5, kernels)
    made.router.weight = module.gate.weight
    made.router.correction = module.gate.e_score_correction_bias
    made.experts.up_proj, made.experts.down_proj = module.experts.up_proj, module.experts.down_proj
    shared = module.shared_experts
    made.shared_up_proj, made.shared_down_proj = shared.up_proj, shared.down_proj
    return partial(made.mixer, context=Context())


def theirs(module: Any, how: str, x: Tensor) -> Tensor:
    """transformers' own forward."""
    module.experts.config._experts_implementation = how
    result: Tensor = module(x)
    return result


def dense(options: argparse.Namespace, x: Tensor) -> Callable[[], None]:
    """The products alone, each expert's rows as if they were one matrix's: forward, the gradient of
    the input, that of the matrix.
    """
    n, rows = options.tokens, options.tokens * options.top_k
    sizes = [
        (rows, options.hidden, options.width),
        (rows, options.width, options.hidden),
        (n, options.hidden, options.shared),
        (n, options.shared, options.hidden),
        (n, options.hidden, options.experts),
    ]
    made = [
        tuple(torch.randn(s, dtype=x.dtype, device=x.device) for s in ((m, k), (o, k), (m, o)))
        for m, k, o in sizes
    ]

    def products() -> None:
        for inputs, matrix, gradient in made:
            torch.mm(inputs, matrix.t())
            torch.mm(gradient, matrix)
            torch.mm(gradient.t(), inputs)

    return products


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
