"""What a batch is worth: distillation from a teacher, or plain next-token cross-entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM, in_shards
from minipuzzle.model.masks import meanwhile
from minipuzzle.registry import DIVERGENCES
from minipuzzle.settings import DEFAULT_LOSS, loss_terms
from minipuzzle.shapes import Float64, Int
from minipuzzle.training import divergences, losses
from minipuzzle.training.head_loss import FORWARD_KL, linear_loss
from minipuzzle.training.losses.base import StateLoss, TargetLoss


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Sums over ``tokens`` tokens, in nats: the loss, which has a gradient, and the teacher's
    entropy (0 without one).
    """

    total: Float64[Tensor, ""]
    entropy: Float64[Tensor, ""]
    tokens: int


class Objective(ABC):
    """What a batch costs a model. A subclass says whether it can be captured, which is False where
    it says nothing.
    """

    @property
    def capturable(self) -> bool:
        """Whether its work depends on the tokens' shape alone, so that a CUDA graph of it may be
        replayed.
        """
        return False

    @abstractmethod
    def __call__(
        self, model: HybridLM, tokens: Int[Tensor, "b s"], documents: Int[Tensor, "b s"] | None
    ) -> BatchLoss:
        """The loss on ``tokens``; ``documents`` keep packed ones apart. Of a model that runs in
        ``parallel``, that of this process's part: the whole is the sum of all parts'.
        """


def marked(documents: Int[Tensor, "b s"] | None) -> tuple[Tensor, Tensor]:
    """(documents [b, s], which of the positions but the last [b, s - 1] predict a token that
    carries a loss), of the ``documents`` of ``TokenBlocks.spans``.
    """
    if documents is None:
        raise ValueError("a loss on some tokens needs their marks: blocks with spans")
    return documents // 2, documents[:, 1:] % 2 == 1


def own_part(model: HybridLM, tokens: Int[Tensor, "b s"]) -> slice:
    """The positions of which the model gives hidden states: all, or this process's part."""
    length = tokens.shape[1]
    return slice(0, length) if model.parallel is None else model.parallel.part(length)


class _NextToken(Objective):
    def __init__(self, *, spans: bool = False) -> None:
        self.spans = spans

    @property
    def capturable(self) -> bool:
        """Unless how many tokens it is a loss of depends on the text."""
        return not self.spans

    def __call__(
        self, model: HybridLM, tokens: Int[Tensor, "b s"], documents: Int[Tensor, "b s"] | None
    ) -> BatchLoss:
        part = own_part(model, tokens)
        targets = tokens[:, 1:][:, part]  # none of the last position
        count = targets.shape[1]
        if self.spans:
            documents, wanted = marked(documents)
            wanted = wanted[:, part]
            hidden = model.hidden_states(tokens, documents)[:, :count][wanted]  # [wanted, d]
            targets = targets[wanted]
        else:
            hidden = model.hidden_states(tokens, documents)[:, :count].flatten(0, 1)
            targets = targets.reshape(-1)
        loss = linear_loss(hidden, model.head_weight, targets=targets)
        return BatchLoss(total=loss.total, entropy=loss.entropy, tokens=targets.numel())


next_token: Objective = _NextToken()
"""Cross-entropy of each token but the first of a block, given those before it."""


def answers_only() -> Objective:
    """Cross-entropy of the tokens that carry a loss in blocks with ``spans``; no document sees
    another one. Only the hidden states that predict one of them meet the head.
    """
    return _NextToken(spans=True)


class _Distillation(Objective):
    @property
    def capturable(self) -> bool:
        """Where the teacher is, and whole, unless how many tokens it is a loss of depends on the
        text: one in shards may be gathered before, and given back after, what is captured.
        """
        return self.teacher.capturable and not in_shards(self.teacher) and not self.spans

    def __init__(self, teacher: HybridLM, loss: str, spans: bool) -> None:
        self.teacher, self.spans = teacher, spans
        terms = loss_terms(loss)
        name = next((name for name in terms if name in DIVERGENCES.names()), "")
        self.weight = terms.pop(name, 0.0)
        self.divergence = divergences.find(name) if name else FORWARD_KL
        self.states: list[tuple[StateLoss, float]] = []
        self.target_weight = 0.0
        for other, weight in terms.items():
            match losses.find(other):
                case StateLoss() as found:
                    self.states.append((found, weight))
                case TargetLoss():
                    self.target_weight += weight
                case found:
                    raise TypeError(f"nothing computes {found}")

    def __call__(
        self, model: HybridLM, tokens: Int[Tensor, "b s"], documents: Int[Tensor, "b s"] | None
    ) -> BatchLoss:
        part, wanted = own_part(model, tokens), None
        if self.spans:
            documents, wanted = marked(documents)
            wanted = wanted[:, part]
        # Not inference mode: its tensors cannot be saved for the student's backward pass.
        with torch.no_grad(), meanwhile([(self.teacher, "parallel", model.parallel)]):
            target = self.teacher.hidden_states(tokens, documents)  # [b, s, d_teacher]
        hidden = model.hidden_states(tokens, documents)  # [b, s, d]
        targets = tokens[:, 1:][:, part]
        count = targets.shape[1]  # the last position has no next token
        if wanted is None:
            length = count if self.target_weight else hidden.shape[1]
            student, taught = (h[:, :length].reshape(-1, h.shape[-1]) for h in (hidden, target))
        else:
            student, taught = (h[:, :count][wanted] for h in (hidden, target))  # [wanted, d]
            targets = targets[wanted]
        found = linear_loss(
            student,
            model.head_weight,
            (taught, self.teacher.head_weight),
            targets.reshape(-1) if self.target_weight else None,
            divergence=self.divergence,
            weight=self.weight,
            target_weight=self.target_weight,
        )
        total = found.total
        for loss, weight in self.states:
            total = total + weight * loss.value(student, taught)
        return BatchLoss(total=total, entropy=found.entropy, tokens=student.shape[0])


def distillation(teacher: HybridLM, loss: str = DEFAULT_LOSS, *, spans: bool = False) -> Objective:
    """What ``loss`` names (``settings.loss_terms``) between teacher and student at every position;
    of blocks with ``spans`` where a token is predicted that carries a loss.

    The teacher runs without gradients and is never changed. Raises: UserError for a loss that is
    not known.
    """
    return _Distillation(teacher, loss, spans)


def check_vocabularies(student: int, teacher: int) -> None:
    """Raises: UserError where the two heads cannot be compared token by token."""
    if student != teacher:
        raise UserError(
            "Student and teacher have different vocabularies.",
            got=f"student {student:,}, teacher {teacher:,}",
            allowed="the same tokenizer and the same padded vocabulary size",
            next="Name the checkpoint that the student was pruned from with distill.teacher.",
        )
