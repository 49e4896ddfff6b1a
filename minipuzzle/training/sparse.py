"""KL from a few of the teacher's vocabulary entries at each token: the k most likely and the rest
as one bucket, or a random sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minipuzzle.model.head import matmul_fp32
from minipuzzle.shapes import Bool, Float, Float32, Float64, Int

CHUNK_VALUES = 1 << 26
"""FP32 logits at once: 512 tokens of 131,072 entries."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The teacher at n tokens: ``ids``, their log probabilities ``log_p``, and ``log_rest``, the
    logarithm of all other entries' mass together; None for a sample
    drawn from the teacher, with repetitions.
    """

    ids: Int[Tensor, "n k"]
    log_p: Float32[Tensor, "n k"]
    log_rest: Float32[Tensor, " n"] | None

    def at(self, chosen: Bool[Tensor, " n"]) -> Entries:
        """Those of the chosen tokens."""
        rest = None if self.log_rest is None else self.log_rest[chosen]
        return Entries(ids=self.ids[chosen], log_p=self.log_p[chosen], log_rest=rest)

    def weight(self) -> Float32[Tensor, "n k"]:
        """What each of the entries counts."""
        return (
            self.log_p.exp()
            if self.log_rest is not None
            else torch.full_like(self.log_p, 1 / self.log_p.shape[1])
        )

    def entropy(self) -> Float64[Tensor, ""]:
        """Sum over tokens, nats. Of a sample: an unbiased estimate. With the rest as a
        bucket: a lower bound.
        """
        total = -(self.weight() * self.log_p).double().sum()
        if self.log_rest is None:
            return total
        return (
            total
            - torch.special.xlogy(self.log_rest.double().exp(), self.log_rest.double().exp()).sum()
        )


@torch.no_grad()
def teacher_entries(
    hidden: Float[Tensor, "n d"],
    head: Float[Tensor, "v d"],
    count: int,
    generator: torch.Generator | None = None,
) -> Entries:
    """The ``count`` most likely entries, or with a ``generator`` as many random ones, of states
    ``hidden``.
    """
    ids, log_p, rest = [], [], []
    for part in _chunks(hidden, head):
        log = torch.log_softmax(matmul_fp32(hidden[part], head.t()), -1)
        if generator is None:
            best, entries = log.topk(count)
            rest.append(log.scatter_(1, entries, -torch.inf).logsumexp(1))
        else:
            entries = torch.multinomial(log.exp(), count, replacement=True, generator=generator)
            best = log.gather(1, entries)
        ids.append(entries)
        log_p.append(best)
    return Entries(
        ids=torch.cat(ids), log_p=torch.cat(log_p), log_rest=torch.cat(rest) if rest else None
    )


def sparse_kl(
    hidden: Float[Tensor, "n d"], head: Float[Tensor, "v d"], entries: Entries
) -> Float64[Tensor, ""]:
    """Sum over tokens of KL(teacher || student) in nats, from the states and the head of the
    student.

    With a rest bucket: KL between the distributions in which all other entries are one, which is
    the whole KL where k is the vocabulary and below it otherwise. Of a sample: mean of log p - log
    q, an unbiased estimate of the KL and (for a fixed sample size) of its gradient. Source:
    arXiv:2503.16870 (random sampling KD, proposal = teacher); plain top-k without the rest is
    biased, as that paper shows.
    """
    result: Tensor = _SparseKL.apply(hidden, head, entries)
    return result


class _SparseKL(torch.autograd.Function):
    """The gradient is made in the forward pass, where the logits are; ``head``'s is summed in
    FP32.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, entries: Entries) -> Tensor:
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros_like(head, dtype=torch.float32)
        loss = torch.zeros((), device=hidden.device, dtype=torch.float64)
        for part in _chunks(hidden, head):
            logits = matmul_fp32(hidden[part], head.t())
            rest = None if entries.log_rest is None else entries.log_rest[part]
            here = Entries(ids=entries.ids[part], log_p=entries.log_p[part], log_rest=rest)
            value, gradient = _one_chunk(logits, here)
            loss += value
            rounded = gradient.to(
                hidden.dtype
            )  # the small difference is rounded, not the large logits
            d_hidden[part] = matmul_fp32(rounded, head).to(hidden.dtype)
            d_head += matmul_fp32(rounded.t(), hidden[part])
        ctx.save_for_backward(d_hidden, d_head)
        ctx.head_dtype = head.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_hidden, d_head = ctx.saved_tensors
        return (
            (d_hidden * grads[0]).to(d_hidden.dtype),
            (d_head * grads[0]).to(ctx.head_dtype),
            None,
        )


def _one_chunk(logits: Tensor, entries: Entries) -> tuple[Tensor, Tensor]:
    """(sum of the KL over rows, its gradient by ``logits``)."""
    total = logits.logsumexp(1, keepdim=True)
    weight = entries.weight()
    loss = (weight * (entries.log_p - logits.gather(1, entries.ids) + total)).double().sum()
    mass = weight.sum(1, keepdim=True)
    gradient = (logits - total).exp()
    if entries.log_rest is None:
        gradient *= mass
    else:
        others = logits.scatter(1, entries.ids, -torch.inf)
        inside = others.logsumexp(1, keepdim=True)
        rest, log_rest = entries.log_rest.exp()[:, None], entries.log_rest[:, None]
        some = (rest > 0) & (inside > -torch.inf)  # no rest where k is the whole vocabulary
        rest, inside = torch.where(some, rest, 0.0), torch.where(some, inside, 0.0)
        loss = loss + torch.where(some, rest * (log_rest - inside + total), 0.0).double().sum()
        gradient = gradient * (mass + rest) - rest * (others - inside).exp()
    return loss, gradient.scatter_add_(1, entries.ids, -weight)


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK_VALUES // head.shape[0])
    return (slice(start, start + size) for start in range(0, hidden.shape[0], size))
