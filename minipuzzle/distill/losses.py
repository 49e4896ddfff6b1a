"""Losses from hidden states and heads. Neither model's full logits ever exist, forward or backward.

Logits are made a tile of tokens and words at a time, twice: the first pass leaves the softmax statistics of each token, the
second, in backward, the gradients. They are FP32 *results* of the matrix product: rounding them to BF16 first ruins the
gradient late in distillation (18 % error at 0.03 nats), because the gradient is a difference of nearly equal
probabilities. It alone is rounded. Words are the outer loop, so that a tile of the head's gradient is summed in FP32 and
written once: an FP32 copy of the whole would take 4 GiB at 131,072 words x 8,192.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minipuzzle.distill.divergences import DIVERGENCES, TOP_K, Divergence
from minipuzzle.model.head import compiled, matmul_fp32, product_dtype

TILE_BYTES = 768 << 20
"""What one tile's buffers may take together."""
TILE_TOKENS = 4096
FORWARD_KL = DIVERGENCES["forward-kl"]


@dataclass(frozen=True, kw_only=True)
class LossResult:
    """Sums over tokens, in nats, float64: the loss, which has a gradient, and the teacher's entropy (0 without one)."""

    total: Tensor
    entropy: Tensor


def linear_loss(
    hidden: Tensor, head: Tensor, teacher: tuple[Tensor, Tensor] | None = None, targets: Tensor | None = None, *,
    divergence: Divergence = FORWARD_KL, weight: float = 1.0, target_weight: float = 1.0,
) -> LossResult:  # fmt: skip
    """``weight`` x divergence from the teacher + ``target_weight`` x cross-entropy of ``targets``, at temperature 1.

    ``hidden`` [n, d] and ``head`` [vocab, d] of the student get gradients, ``teacher`` = (hidden [n, d_teacher], head
    [vocab, d_teacher]) none; ``targets`` [n] int64. Products take BF16 under autocast, else the dtype of ``hidden``.
    """
    dtype = product_dtype(hidden)
    teacher_hidden, teacher_head = (None, None) if teacher is None else (teacher[0].detach().to(dtype), teacher[1].detach())
    plan = _Plan(divergence=divergence, weight=weight if teacher is not None else 0.0,
                 target_weight=target_weight if targets is not None else 0.0)  # fmt: skip
    total, entropy = _LinearLoss.apply(hidden.to(dtype), head, teacher_hidden, teacher_head, targets, plan)
    return LossResult(total=total, entropy=entropy)


@dataclass(kw_only=True)
class _Plan:
    """The loss, and what the forward pass leaves for backward."""

    divergence: Divergence
    weight: float
    target_weight: float
    kept: tuple[Tensor, Tensor] | None = None
    sums: Tensor = field(default_factory=lambda: torch.zeros(0))
    lse: Tensor = field(default_factory=lambda: torch.zeros(0))  # [2, n]: of student and teacher
    floor: Tensor = field(default_factory=lambda: torch.zeros(0))


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, teacher_hidden: Tensor | None, teacher_head: Tensor | None,
        targets: Tensor | None, plan: _Plan,
    ) -> Any:  # fmt: skip
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _Logits(hidden, head, teacher_hidden, teacher_head)
            kl, entropy, target_logit = _first_pass(logits, targets, plan)
            total = torch.zeros((), dtype=torch.float64, device=hidden.device)
            if teacher_hidden is not None:
                value = kl if plan.divergence.sums is None else _second_pass(logits, plan)
                total += plan.weight * value.double().sum()
            if targets is not None:
                total += plan.target_weight * (plan.lse[0] - target_logit).double().sum()
        ctx.save_for_backward(hidden, head, teacher_hidden, teacher_head, targets)
        ctx.plan = plan
        ctx.mark_non_differentiable(entropy)
        return total, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, head, teacher_hidden, teacher_head, targets = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _Logits(hidden, head, teacher_hidden, teacher_head)
            gradients = _gradients(logits, targets, ctx.plan, grads[0].float(), ctx.needs_input_grad[:2])
        ctx.plan.kept = None
        return *gradients, None, None, None, None


class _Logits:
    """Tiles of both models' logits [rows, words], FP32; without a teacher its tiles are the student's."""

    def __init__(self, hidden: Tensor, head: Tensor, teacher_hidden: Tensor | None, teacher_head: Tensor | None) -> None:
        self.hidden, self.head, self.teacher_hidden, self.teacher_head = hidden, head, teacher_hidden, teacher_head
        tokens, words = tile_sizes(
            hidden.shape[0], head.shape[0], hidden.shape[1], 0 if teacher_hidden is None else teacher_hidden.shape[1]
        )
        self.rows = [slice(i, i + tokens) for i in range(0, hidden.shape[0], tokens)]
        self.words = [slice(i, i + words) for i in range(0, head.shape[0], words)]

    def weight(self, words: slice) -> Tensor:
        """[v, d] of the student's head, in the dtype of the products."""
        return self.head[words].to(self.hidden.dtype)

    def tiles(self, words: slice) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows, student's, teacher's logits) of these words."""
        weight = self.weight(words).t()
        other = None if self.teacher_head is None else self.teacher_head[words].to(self.hidden.dtype).t()
        for rows in self.rows:
            student = matmul_fp32(self.hidden[rows], weight)
            yield rows, student, student if other is None else matmul_fp32(self.teacher_hidden[rows], other)  # type: ignore


def tile_sizes(tokens: int, vocab: int, width: int, teacher_width: int) -> tuple[int, int]:
    """(tokens, words) of a tile: whatever TILE_BYTES hold; words a power of two, which divides most vocabularies.

    A word of a tile takes 4 + 4 + 2 bytes a token (two logits, the rounded gradient), 8 a channel (the head's gradient and
    what is added to it) and 2 a channel of each head in BF16; a token, the 4 bytes a channel that its gradient gets.
    """
    rows = -(-tokens // -(-tokens // TILE_TOKENS))
    each = 10 * rows + 8 * width + 2 * (width + teacher_width)
    fit = max(128, (TILE_BYTES - 4 * rows * width) // each)
    return rows, vocab if vocab <= fit else 1 << fit.bit_length() - 1


def _first_pass(logits: _Logits, targets: Tensor | None, plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
    """(forward KL [n], the teacher's entropy summed, the target's logit [n]); leaves ``plan.lse`` and ``plan.floor``."""
    n, device = logits.hidden.shape[0], logits.hidden.device
    running = torch.zeros(6, n, device=device)
    running[:2] = float("-inf")
    target_logit = torch.zeros(n, device=device)
    top = torch.full((n, TOP_K if plan.divergence.needs_floor else 0), float("-inf"), device=device)
    once = len(logits.rows) == len(logits.words) == 1
    for words in logits.words:
        for rows, student, teacher in logits.tiles(words):
            running[:, rows] = _fused(_statistics, student)(student, teacher, running[:, rows])
            if targets is not None:
                place = targets[rows] - words.start
                inside = (place >= 0) & (place < student.shape[1])
                target_logit[rows] += student.gather(1, place.clamp(0, student.shape[1] - 1)[:, None])[:, 0] * inside
            if top.shape[1]:
                best = teacher.topk(min(TOP_K, teacher.shape[1])).values
                top[rows] = torch.cat((top[rows], best), 1).topk(TOP_K).values
            plan.kept = (student, teacher) if once else None
    high, total, moments = running[:2], running[2:4], running[4:]
    plan.lse = high + total.log()
    plan.floor = top[:, -1:] - plan.lse[1][:, None] if top.shape[1] else plan.lse[1][:, None]
    apart, mean = moments / total[1]
    entropy = (plan.lse[1] - mean).double().sum() * (logits.teacher_head is not None)
    return apart - plan.lse[1] + plan.lse[0], entropy, target_logit


def _second_pass(logits: _Logits, plan: _Plan) -> Tensor:
    """The divergence [n] where it needs both softmaxes first; leaves ``plan.sums``."""
    assert plan.divergence.sums is not None
    for words in logits.words:
        for rows, student, teacher in logits.tiles(words):
            s, t = student - plan.lse[0, rows, None], teacher - plan.lse[1, rows, None]
            part = plan.divergence.sums(s, t, plan.floor[rows])
            if not len(plan.sums):
                plan.sums = part.new_zeros(part.shape[0], logits.hidden.shape[0])
            plan.sums[:, rows] += part
    return plan.divergence.value(plan.sums)


def _gradients(
    logits: _Logits, targets: Tensor | None, plan: _Plan, scale: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``hidden`` and ``head`` times ``scale``, each rounded once."""
    hidden = logits.hidden
    d_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if needed[0] else None
    d_head = torch.empty_like(logits.head) if needed[1] else None
    for words in logits.words:
        weight, tile = logits.weight(words), None
        source = logits.tiles(words) if plan.kept is None else iter([(logits.rows[0], *plan.kept)])
        for rows, student, teacher in source:
            sums = plan.sums[:, rows] if len(plan.sums) else plan.lse[:0, rows]
            column = None if targets is None else (targets[rows] - words.start)[:, None]
            rounded = _fused(_logit_gradient, student)(
                student, teacher, plan.lse[:, rows], plan.floor[rows], sums, column, scale, plan.divergence.gradient,
                plan.weight, plan.target_weight, hidden.dtype,
            )  # fmt: skip
            if d_hidden is not None:
                d_hidden[rows] += matmul_fp32(rounded, weight)
            if d_head is not None:
                part = matmul_fp32(rounded.t(), hidden[rows])
                tile = part if tile is None else tile.add_(part)
        if d_head is not None:
            d_head[words] = tile  # type: ignore[assignment]
    return None if d_hidden is None else d_hidden.to(hidden.dtype), d_head


def _statistics(student: Tensor, teacher: Tensor, running: Tensor) -> Tensor:
    """``running`` [6, n] after a tile: largest logits, sums of exp of student and teacher, the teacher's sums of
    exp x (its logit - the student's) and exp x its logit, all relative to the largest."""
    high = torch.stack((torch.maximum(running[0], student.amax(-1)), torch.maximum(running[1], teacher.amax(-1))))
    shrink = (running[:2] - high).exp()
    p = (teacher - high[1][:, None]).exp()
    added = torch.stack((
        (student - high[0][:, None]).exp().sum(-1), p.sum(-1), (p * (teacher - student)).sum(-1), (p * teacher).sum(-1)
    ))  # fmt: skip
    factors = torch.stack((shrink[0], shrink[1], shrink[1], shrink[1]))
    return torch.cat((high, running[2:] * factors + added))


def _logit_gradient(
    student: Tensor, teacher: Tensor, lse: Tensor, floor: Tensor, sums: Tensor, column: Tensor | None, scale: Tensor,
    divergence: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], weight: float, target_weight: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """d loss / d student logits [n, v] in ``dtype``; ``column`` [n, 1] is the target's place, in this tile or outside."""
    s = student - lse[0][:, None]
    result = torch.zeros_like(s)
    if weight:
        result = result + weight * divergence(s, teacher - lse[1][:, None], floor, sums)
    if column is not None:
        target = torch.arange(s.shape[1], device=s.device) == column
        result = result + target_weight * (s.exp() - target.float())
    return (result * scale).to(dtype)


def _fused(function: Callable[..., Tensor], tile: Tensor) -> Callable[..., Tensor]:
    """The function as one kernel on CUDA: a dozen passes over a tile of logits would cost more than its products."""
    return compiled(function) if tile.is_cuda else function
