"""The ways of benchmarks/experts.py to run one block of experts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _clocks import Run
from torch import Tensor

from minipuzzle.kernels import Kernels
from minipuzzle.kinds import Experts
from minipuzzle.model.base import Context, make_block

SCALING = 2.5


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


def products(options: argparse.Namespace, x: Tensor, *, apart: bool) -> Callable[[], None]:
    """The products alone: forward, the gradient of the input, that of the matrix. Each expert's
    rows as if they were one matrix's, or ``apart``: as many for each expert, in batched products
    that read and write every expert's matrix.
    """
    n, rows, count = options.tokens, options.tokens * options.top_k, 1
    if apart:
        rows, count = rows // options.experts, options.experts
    sizes = [
        (count, rows, options.hidden, options.width),
        (count, rows, options.width, options.hidden),
        (1, n, options.hidden, options.shared),
        (1, n, options.shared, options.hidden),
        (1, n, options.hidden, options.experts),
    ]

    def rand(*shape: int) -> Tensor:
        made = torch.randn(shape, dtype=x.dtype, device=x.device)
        return made if shape[0] > 1 else made[0]

    made = [(rand(c, m, k), rand(c, o, k), rand(c, m, o)) for c, m, k, o in sizes]

    def run() -> None:
        for inputs, matrix, gradient in made:
            torch.matmul(inputs, matrix.transpose(-2, -1))
            torch.matmul(gradient, matrix)
            torch.matmul(gradient.transpose(-2, -1), inputs)

    return run
