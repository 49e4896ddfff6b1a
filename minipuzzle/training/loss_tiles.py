"""Two passes over tiles of tokens and vocabulary entries: the first leaves the softmax statistics,
the second the gradients.

Entries are the outer loop, so that a tile of the head's gradient is summed in FP32 and written
once: an FP32 copy of a BF16 head's whole gradient would take 4 GiB at 131,072 entries x 8,192.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minipuzzle.memory.loss import TILE_BYTES
from minipuzzle.model.head import add_matmul_fp32, compiled, matmul_fp32
from minipuzzle.shapes import Float, Float32, Float64, Int
from minipuzzle.training.divergences.base import TOP_K, Divergence

TILE_TOKENS = 4096


@dataclass(kw_only=True)
class Plan:
    """The loss, and what the first pass leaves for the second."""

    divergence: Divergence
    weight: float
    target_weight: float
    kept: tuple[Tensor, Tensor] | None = None  # the only tile's logits
    sums: Tensor = field(default_factory=lambda: torch.zeros(0))
    lse: Tensor = field(default_factory=lambda: torch.zeros(0))  # [2, n]: of student and teacher
    floor: Tensor = field(default_factory=lambda: torch.zeros(0))


class Tiles:
    """Tiles of both models' logits [rows, entries], FP32; without a teacher its tiles are the
    student's.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Tensor,
        teacher_hidden: Tensor | None,
        teacher_head: Tensor | None,
        sizes: tuple[int, int],
    ) -> None:
        self.hidden, self.head, self.teacher_hidden, self.teacher_head = (
            hidden,
            head,
            teacher_hidden,
            teacher_head,
        )
        tokens, entries = sizes
        self.rows = [slice(i, i + tokens) for i in range(0, hidden.shape[0], tokens)]
        self.entries = [slice(i, i + entries) for i in range(0, head.shape[0], entries)]

    def weight(self, entries: slice) -> Tensor:
        """[v, d] of the student's head, in the dtype of the products."""
        return self.head[entries].to(self.hidden.dtype)

    def tiles(
        self, entries: slice, kept: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows, student's, teacher's logits) of these entries, or ``kept`` where that is all of
        them.
        """
        if kept is not None:
            yield self.rows[0], *kept
            return
        weight = self.weight(entries).t()
        other = (
            None
            if self.teacher_head is None
            else self.teacher_head[entries].to(self.hidden.dtype).t()
        )
        for rows in self.rows:
            student = matmul_fp32(self.hidden[rows], weight)
            if other is None or self.teacher_hidden is None:
                yield rows, student, student
            else:
                yield rows, student, matmul_fp32(self.teacher_hidden[rows], other)


def tile_sizes(tokens: int, vocab: int, width: int, teacher_width: int) -> tuple[int, int]:
    """(tokens, entries) of a tile: whatever TILE_BYTES hold; entries a power of two, which divides
    most vocabularies.

    An entry of a tile takes 4 + 4 + 2 bytes a token (two logits, the rounded gradient), 4 a channel
    (the head's gradient) and 2 a channel of each head in BF16.
    """
    rows = -(-tokens // -(-tokens // TILE_TOKENS))
    each = 10 * rows + 4 * width + 2 * (width + teacher_width)
    fit = max(128, TILE_BYTES // each)
    return rows, vocab if vocab <= fit else 1 << fit.bit_length() - 1


def first_pass(
    logits: Tiles, targets: Int[Tensor, " n"] | None, plan: Plan
) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
    """(the loss, the teacher's entropy), summed; leaves what the second pass needs in
    ``plan``.
    """
    n, device = logits.hidden.shape[0], logits.hidden.device
    running = torch.zeros(6, n, device=device)
    running[:2] = float("-inf")
    target_logit = torch.zeros(n, device=device)
    top = torch.full((n, TOP_K if plan.divergence.needs_floor else 0), float("-inf"), device=device)
    once = len(logits.rows) == len(logits.entries) == 1
    for entries in logits.entries:
        for rows, student, teacher in logits.tiles(entries):
            high = fused(_largest, student)(student, teacher, running[:2, rows])
            running[2:, rows] = fused(_statistics, student)(
                student, teacher, running[:, rows], high
            )
            running[:2, rows] = high
            if targets is not None:
                place = targets[rows] - entries.start
                inside = (place >= 0) & (place < student.shape[1])
                target_logit[rows] += (
                    student.gather(1, place.clamp(0, student.shape[1] - 1)[:, None])[:, 0] * inside
                )
            if top.shape[1]:
                best = teacher.topk(min(TOP_K, teacher.shape[1])).values
                top[rows] = torch.cat((top[rows], best), 1).topk(TOP_K).values
            plan.kept = (student, teacher) if once else None
    high, total, moments = running[:2], running[2:4], running[4:]
    plan.lse = high + total.log()
    plan.floor = top[:, -1:] - plan.lse[1][:, None] if top.shape[1] else plan.lse[1][:, None]
    difference, mean = moments / total[1]
    entropy = (plan.lse[1] - mean).double().sum() * (logits.teacher_head is not None)
    loss = plan.target_weight * (plan.lse[0] - target_logit).double().sum()
    if plan.weight:
        kl = difference - plan.lse[1] + plan.lse[0]
        loss += (
            plan.weight
            * (kl if plan.divergence.sums is None else _sums(logits, plan)).double().sum()
        )
    return loss, entropy


def _sums(logits: Tiles, plan: Plan) -> Tensor:
    """The divergence [n] where it needs both softmaxes first; leaves ``plan.sums``."""
    assert plan.divergence.sums is not None
    for entries in logits.entries:
        for rows, student, teacher in logits.tiles(entries, plan.kept):
            s, t = student - plan.lse[0, rows, None], teacher - plan.lse[1, rows, None]
            part = plan.divergence.sums(s, t, plan.floor[rows])
            if not len(plan.sums):
                plan.sums = part.new_zeros(part.shape[0], logits.hidden.shape[0])
            plan.sums[:, rows] += part
    return plan.divergence.value(plan.sums)


def second_pass(
    logits: Tiles,
    targets: Int[Tensor, " n"] | None,
    plan: Plan,
    scale: Float32[Tensor, ""],
    needed: tuple[bool, bool],
) -> tuple[Float[Tensor, "n d"] | None, Float[Tensor, "v d"] | None]:
    """Gradients of ``hidden`` and ``head`` times ``scale``, each summed in FP32 and rounded
    once.
    """
    hidden = logits.hidden
    d_hidden = (
        torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if needed[0] else None
    )
    d_head = torch.empty_like(logits.head) if needed[1] else None
    for entries in logits.entries:
        weight = logits.weight(entries)
        tile = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            if d_head is not None
            else None
        )
        for rows, student, teacher in logits.tiles(entries, plan.kept):
            rounded = gradient_tile(logits, targets, plan, scale, rows, entries, student, teacher)
            if d_hidden is not None:
                add_matmul_fp32(d_hidden[rows], rounded, weight)
            if tile is not None:
                add_matmul_fp32(tile, rounded.t(), hidden[rows])
        if d_head is not None:
            d_head[entries] = tile  # type: ignore[assignment]
    return None if d_hidden is None else d_hidden.to(hidden.dtype), d_head


def gradient_tile(
    logits: Tiles,
    targets: Int[Tensor, " all"] | None,
    plan: Plan,
    scale: Float32[Tensor, ""],
    rows: slice,
    entries: slice,
    student: Float32[Tensor, "n v"],
    teacher: Float32[Tensor, "n v"],
    out: Float[Tensor, "n v"] | None = None,
) -> Float[Tensor, "n v"]:
    """d loss / d student logits times ``scale``, rounded to the dtype of the products;
    written to ``out``.
    """
    out = torch.empty_like(student, dtype=logits.hidden.dtype) if out is None else out
    sums = plan.sums[:, rows] if len(plan.sums) else plan.lse[:0, rows]
    column = None if targets is None else (targets[rows] - entries.start)[:, None]
    return fused(_logit_gradient, student)(
        student,
        teacher,
        plan.lse[:, rows],
        plan.floor[rows],
        sums,
        column,
        scale,
        plan.divergence.gradient,
        plan.weight,
        plan.target_weight,
        out,
    )


def _largest(student: Tensor, teacher: Tensor, running: Tensor) -> Tensor:
    """``running`` [2, n], the largest logits of student and teacher, after a tile."""
    return torch.maximum(running, torch.stack((student.amax(-1), teacher.amax(-1))))


def _statistics(student: Tensor, teacher: Tensor, running: Tensor, high: Tensor) -> Tensor:
    """The last rows of ``running`` [6, n] after a tile, whose first two ``high`` will be: sums of
    exp of student and teacher, the teacher's sums of exp x (its logit - the student's) and exp x
    its logit, relative to the largest.

    ``high`` is made before: in one function with it, the compiler would store the exponentials of a
    whole tile.
    """
    shrink = (running[:2] - high).exp()
    p = (teacher - high[1][:, None]).exp()
    added = torch.stack(
        (
            (student - high[0][:, None]).exp().sum(-1),
            p.sum(-1),
            (p * (teacher - student)).sum(-1),
            (p * teacher).sum(-1),
        )
    )
    return running[2:] * torch.stack((shrink[0], shrink[1], shrink[1], shrink[1])) + added


def _logit_gradient(
    student: Tensor,
    teacher: Tensor,
    lse: Tensor,
    floor: Tensor,
    sums: Tensor,
    column: Tensor | None,
    scale: Tensor,
    divergence: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    weight: float,
    target_weight: float,
    out: Tensor,
) -> Tensor:
    """d loss / d student logits, to ``out`` [n, v]; ``column`` [n, 1] is the target's place, in
    this tile or outside.
    """
    s = student - lse[0][:, None]
    result = torch.zeros_like(s)
    if weight:
        result = result + weight * divergence(s, teacher - lse[1][:, None], floor, sums)
    if column is not None:
        target = torch.arange(s.shape[1], device=s.device) == column
        result = result + target_weight * (s.exp() - target.float())
    return out.copy_(result * scale)


def fused(function: Callable[..., Tensor], tile: Float32[Tensor, "n v"]) -> Callable[..., Tensor]:
    """The function as one kernel on CUDA: a dozen passes over a tile of logits would cost more than
    its products.
    """
    return compiled(function) if tile.is_cuda else function
