"""The ways of benchmarks/experts.py to run one block of experts, and its clocks."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.kernels.pointwise import relu_squared
from minipuzzle.kernels.routing import Routing, route

REPLAYS, WARM_UPS = 24, 3
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


def ours(module: Any, top_k: int, run: Callable[..., Tensor], x: Tensor) -> Tensor:
    """The block with our router, experts and activations, on transformers' parameters."""
    tokens = x.flatten(0, 1)  # [n, hidden]
    logits = F.linear(tokens.float(), module.gate.weight.float())
    routing = Routing(router="sigmoid", top_k=top_k, normalised=True, scaling=2.5)
    weights, chosen = route(logits, routing, module.gate.e_score_correction_bias)
    stacks = module.experts.up_proj, module.experts.down_proj
    routed = run(tokens, *stacks, weights, chosen, "relu2", False)
    shared = module.shared_experts
    return routed.view_as(x) + shared.down_proj(relu_squared(shared.up_proj(x)))


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
