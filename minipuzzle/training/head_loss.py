"""Losses from hidden states and heads. Neither model's full logits ever exist, forward or backward.

Logits are FP32 *results* of the matrix product: rounding them to BF16 first ruins the gradient late
in distillation (18 % error at 0.03 nats), because the gradient is a difference of nearly equal
probabilities. It alone is rounded.

Logits are made once where memory allows (``memory.loss``), for all vocabulary entries of a few
tokens at a time, and the gradients with them, in the forward pass: four products. Else (masters of
8,192 channels, more tokens than one product takes and a BF16 head) they are made twice, in tiles of
tokens and vocabulary entries (``loss_tiles``): six products, but no copies of heads and no FP32
copy of the head's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minipuzzle.memory import loss
from minipuzzle.model.head import add_matmul_fp32, matmul_fp32, product_dtype
from minipuzzle.shapes import Float, Float64, Int
from minipuzzle.training.divergences import find
from minipuzzle.training.divergences.base import Divergence
from minipuzzle.training.loss_tiles import (
    Plan,
    Tiles,
    first_pass,
    gradient_tile,
    second_pass,
    tile_sizes,
)

FORWARD_KL = find("forward-kl")


@dataclass(frozen=True, kw_only=True)
class LossResult:
    """Sums over tokens, in nats: the loss, which has a gradient, and the teacher's entropy
    (0 without one).
    """

    total: Float64[Tensor, ""]
    entropy: Float64[Tensor, ""]


def linear_loss(
    hidden: Float[Tensor, "n d"],
    head: Float[Tensor, "v d"],
    teacher: tuple[Float[Tensor, "n d_teacher"], Float[Tensor, "v d_teacher"]] | None = None,
    targets: Int[Tensor, " n"] | None = None,
    *,
    divergence: Divergence = FORWARD_KL,
    weight: float = 1.0,
    target_weight: float = 1.0,
) -> LossResult:
    """``weight`` x divergence from the teacher + ``target_weight`` x cross-entropy of ``targets``,
    at temperature 1.

    ``hidden`` and ``head`` of the student get gradients, ``teacher`` = (hidden, head) none.
    Products take BF16 under
    autocast, else the dtype of ``hidden``.
    """
    dtype = product_dtype(hidden)
    teacher_hidden, teacher_head = (
        (None, None) if teacher is None else (teacher[0].detach().to(dtype), teacher[1].detach())
    )
    plan = Plan(
        divergence=divergence,
        weight=weight if teacher is not None else 0.0,
        target_weight=target_weight if targets is not None else 0.0,
    )
    once = makes_logits_once(len(hidden), head, teacher_head, dtype)
    function = _OnePass if once else _TwoPass
    total, entropy = function.apply(
        hidden.to(dtype), head, teacher_hidden, teacher_head, targets, plan
    )
    return LossResult(total=total, entropy=entropy)


def makes_logits_once(
    tokens: int,
    head: Float[Tensor, "v d"],
    teacher_head: Float[Tensor, "v d_teacher"] | None,
    dtype: torch.dtype,
) -> bool:
    """``memory.loss.makes_logits_once`` of these heads, products taking ``dtype``."""
    heads = [h for h in (head, teacher_head) if h is not None and h.dtype != dtype]
    return loss.makes_logits_once(
        tokens,
        head.shape[0],
        copies=sum(h.numel() * dtype.itemsize for h in heads),
        rounded=head.requires_grad and head.dtype != torch.float32,
    )


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        teacher_hidden: Tensor | None,
        teacher_head: Tensor | None,
        targets: Tensor | None,
        plan: Plan,
    ) -> Any:
        wanted = ctx.needs_input_grad[:2]
        with torch.autocast(hidden.device.type, enabled=False):
            total, entropy, ctx.gradients = _once(
                hidden,
                head.to(hidden.dtype),
                teacher_hidden,
                None if teacher_head is None else teacher_head.to(hidden.dtype),
                targets,
                plan,
                wanted,
                head.dtype,
            )
        ctx.dtypes = hidden.dtype, head.dtype
        ctx.mark_non_differentiable(entropy)
        return total, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gradients = [
            None if gradient is None else gradient.mul_(grads[0].float()).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        del ctx.gradients
        return *gradients, None, None, None, None


def _once(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
    targets: Tensor | None,
    plan: Plan,
    wanted: tuple[bool, bool],
    head_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None]]:
    """(loss, entropy, gradients of states and head): FP32, but for that of a head of another
    ``head_dtype`` which one product makes.
    """
    vocab, device = head.shape[0], hidden.device
    one = torch.ones((), device=device)
    rows, group = loss.rows_at_a_time(vocab), loss.rows_collected(vocab)
    narrow = head_dtype != torch.float32 and len(hidden) <= group
    total, entropy = torch.zeros(2, dtype=torch.float64, device=device)
    d_hidden = torch.empty(hidden.shape, device=device) if wanted[0] else None
    d_head: Tensor | None = None
    gradient = hidden.new_empty(min(group, len(hidden)), vocab) if any(wanted) else None
    for start in range(0, len(hidden), group):
        stop = min(start + group, len(hidden))
        for at in range(start, stop, rows):
            part = slice(at, min(at + rows, stop))
            few, many = (None if t is None else t[part] for t in (targets, teacher_hidden))
            logits, made = (
                Tiles(hidden[part], head, many, teacher_head, (rows, vocab)),
                replace(plan),
            )
            part_total, teaching = first_pass(logits, few, made)
            total, entropy = total + part_total, entropy + teaching
            if gradient is not None and made.kept is not None:
                all_rows, all_entries = slice(0, rows), slice(0, vocab)
                gradient_tile(
                    logits,
                    few,
                    made,
                    one,
                    all_rows,
                    all_entries,
                    *made.kept,
                    gradient[at - start : part.stop - start],
                )
        if gradient is None:
            continue
        collected = gradient[: stop - start]
        if d_hidden is not None:
            d_hidden[start:stop] = matmul_fp32(collected, head)  # [group, d]
        if wanted[1] and d_head is None:  # [v, d]
            d_head = (torch.mm if narrow else matmul_fp32)(collected.t(), hidden[start:stop])
        elif d_head is not None:
            add_matmul_fp32(d_head, collected.t(), hidden[start:stop])
    if wanted[1] and d_head is None:  # no tokens: other processes sum theirs with it
        d_head = torch.zeros(head.shape, device=device)
    return total, entropy, (d_hidden, d_head)


class _TwoPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        teacher_hidden: Tensor | None,
        teacher_head: Tensor | None,
        targets: Tensor | None,
        plan: Plan,
    ) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            total, entropy = first_pass(
                _tiles(hidden, head, teacher_hidden, teacher_head), targets, plan
            )
        ctx.save_for_backward(hidden, head, teacher_hidden, teacher_head, targets)
        ctx.plan = plan
        ctx.mark_non_differentiable(entropy)
        return total, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, head, teacher_hidden, teacher_head, targets = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _tiles(hidden, head, teacher_hidden, teacher_head)
            gradients = second_pass(
                logits, targets, ctx.plan, grads[0].float(), ctx.needs_input_grad[:2]
            )
        ctx.plan.kept = None
        return *gradients, None, None, None, None


def _tiles(
    hidden: Tensor, head: Tensor, teacher_hidden: Tensor | None, teacher_head: Tensor | None
) -> Tiles:
    teacher_width = 0 if teacher_hidden is None else teacher_hidden.shape[1]
    sizes = tile_sizes(hidden.shape[0], head.shape[0], head.shape[1], teacher_width)
    return Tiles(hidden, head, teacher_hidden, teacher_head, sizes)
