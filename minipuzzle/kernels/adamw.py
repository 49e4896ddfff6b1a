"""AdamW's step on many tensors: gradients are scaled where they are read, and a BF16 copy of each
weight is written where the weight is. In plain PyTorch, the oracle of ``kernels.adamw_cuda``.

Source: arXiv:1711.05101; the order of operations is that of PyTorch's AdamW for one tensor, so that
the plain step equals it to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Betas:
    """How slowly both moments follow, and what is added to the root of the second."""

    first: float
    second: float
    eps: float


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One tensor's part of a step: its FP32 ``weight`` and moments, any shape, all of one; its
    ``gradient``, FP32 or BF16; a BF16 ``copy`` of the weight, or None.

    ``keep``: what weight decay leaves of the weight; ``rate``: the learning rate over the first
    moment's correction; ``root``: the square root of the second moment's.
    """

    weight: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    copy: Tensor | None
    keep: float
    rate: float
    root: float


@torch.no_grad()
def plain_adamw(tensors: Sequence[Stepped], scale: float, betas: Betas) -> None:
    """A step at gradients times ``scale``, tensor by tensor: weights, moments and copies are
    written in place, and FP32 gradients scaled in place.
    """
    for t in tensors:
        gradient = t.gradient.float().mul_(scale)
        t.weight.mul_(t.keep)
        t.first.lerp_(gradient, 1 - betas.first)
        t.second.mul_(betas.second).addcmul_(gradient, gradient, value=1 - betas.second)
        root = (t.second.sqrt() / t.root).add_(betas.eps)
        t.weight.addcdiv_(t.first, root, value=-t.rate)
        if t.copy is not None:
            t.copy.copy_(t.weight)
