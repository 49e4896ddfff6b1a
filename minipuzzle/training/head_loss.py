"""Losses from hidden states and heads. Neither model's full logits ever exist, forward or backward.

Logits are FP32 *results* of the matrix product: rounding them to BF16 first ruins the gradient late
in distillation (18 % error at 0.03 nats), because the gradient is a difference of nearly equal
probabilities. It alone is rounded.

Where the head's gradient is FP32 anyway (masters) and its BF16 copy is small, logits are made once,
for all vocabulary entries of a few tokens at a time, and the gradients with them, in the forward
pass: four products. Else (a sharded BF16 head, 8,192 channels) they are made twice, in tiles of
tokens and vocabulary entries (``loss_tiles``): six products, but no FP32 copy of the head's
gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

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

ROW_BYTES = 512 << 20
"""FP32 logits of both models, over the whole vocabulary, that are alive at a time."""
GRADIENT_BYTES = 384 << 20
"""Rounded gradients of logits that are collected before they are multiplied: each time costs a pass
over the head's.
"""
COPY_BYTES = 640 << 20
"""What the BF16 copies of FP32 heads may take."""
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
    function = _OnePass if makes_logits_once(head, teacher_head, dtype) else _TwoPass
    total, entropy = function.apply(
        hidden.to(dtype), head, teacher_hidden, teacher_head, targets, plan
    )
    return LossResult(total=total, entropy=entropy)


def makes_logits_once(
    head: Float[Tensor, "v d"],
    teacher_head: Float[Tensor, "v d_teacher"] | None,
    dtype: torch.dtype,
) -> bool:
    """Whether FP32 sums of the head's gradient and copies of the heads in ``dtype`` cost no memory
    worth saving.
    """
    copies = sum(
        h.numel() * dtype.itemsize
        for h in (head, teacher_head)
        if h is not None and h.dtype != dtype
    )
    return copies <= COPY_BYTES and (head.dtype == torch.float32 or not head.requires_grad)


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
            )
        ctx.dtype = hidden.dtype
        ctx.mark_non_differentiable(entropy)
        return total, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_hidden, d_head = (None if g is None else g.mul_(grads[0].float()) for g in ctx.gradients)
        del ctx.gradients
        return None if d_hidden is None else d_hidden.to(ctx.dtype), d_head, None, None, None, None


def _once(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
    targets: Tensor | None,
    plan: Plan,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """(loss, entropy, FP32 gradients of states and head)."""
    vocab, device = head.shape[0], hidden.device
    one = torch.ones((), device=device)
    rows = 1 << max(16, ROW_BYTES // (8 * vocab)).bit_length() - 1
    group = max(rows, GRADIENT_BYTES // (2 * vocab) // rows * rows)
    total, entropy = torch.zeros(2, dtype=torch.float64, device=device)
    sums = [
        torch.zeros(t.shape, device=device) if w else None
        for t, w in zip((hidden, head), wanted, strict=True)
    ]
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
            loss, teaching = first_pass(logits, few, made)
            total, entropy = total + loss, entropy + teaching
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
        if sums[0] is not None:
            sums[0][start:stop] = matmul_fp32(gradient[: stop - start], head)  # type: ignore[index]
        if sums[1] is not None:
            add_matmul_fp32(sums[1], gradient[: stop - start].t(), hidden[start:stop])  # type: ignore[index]
    return total, entropy, sums


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
