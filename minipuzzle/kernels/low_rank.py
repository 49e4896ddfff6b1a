"""Experts with a product of low rank beside each matrix of their stacks: an adapter's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from minipuzzle.kernels import experts, grouped
from minipuzzle.kernels.experts import Call, Order, Product, looped
from minipuzzle.kernels.pointwise import product_dtype

Pair = tuple[Tensor, Tensor]
"""(A [E, rank, in], B [E, out, rank]): each expert's matrix is W + B A, which is never made."""


def run_experts(call: Call, *, pairs: Mapping[str, Pair], loop: bool = False) -> Tensor:
    """As ``experts.run_experts``, with the ``pairs`` of "up" and "down"; grouped products where all
    sizes, the ranks too, allow it and nobody asks for a ``loop``.
    """
    dtype = product_dtype(call.x)
    call = call.to(dtype)
    x, up, down = call.x, call.up, call.down
    sizes = [*up.shape[1:], *down.shape[1:], *(len(a[0]) for a, _ in pairs.values())]
    whole = not loop and grouped.fits(x.device, dtype, *sizes)
    base: Product = grouped.grouped if whole else looped
    beside = {id(stack): pairs[n] for n, stack in (("up", up), ("down", down)) if n in pairs}

    def product(rows: Tensor, stack: Tensor, order: Order) -> Tensor:
        y = base(rows, stack, order)
        if id(stack) not in beside:
            return y
        a, b = (factor.to(dtype) for factor in beside[id(stack)])
        return y + base(base(rows, a, order), b, order)

    with torch.autocast("cuda", enabled=False) if x.is_cuda else nullcontext():
        return experts.run_experts(call, product=product)
