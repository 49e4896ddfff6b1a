"""What a batch is worth: distillation from a teacher, or plain next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM
from minipuzzle.settings import DEFAULT_LOSS, loss_terms
from minipuzzle.training.divergences import DIVERGENCES
from minipuzzle.training.losses import FORWARD_KL, linear_loss


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Sums over ``tokens`` tokens, in nats: the loss, which has a gradient, and the teacher's
    entropy (0 without one).
    """

    total: Tensor
    entropy: Tensor
    tokens: int


Objective = Callable[[HybridLM, Tensor, Tensor | None], BatchLoss]
"""(model, tokens [b, s], documents [b, s] or None) -> what this batch costs."""


def steady(objective: Objective) -> Objective:
    """Mark an objective whose work depends on the tokens' shape alone, so that a CUDA graph of it
    may be replayed.
    """
    vars(objective)["steady"] = True
    return objective


def is_steady(objective: Objective) -> bool:
    """Whether it is marked so."""
    return getattr(objective, "steady", False)


@steady
def next_token(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
    """Cross-entropy of each token but the first of a block, given those before it."""
    hidden = model.hidden_states(tokens, documents)[:, :-1]
    targets = tokens[:, 1:].reshape(-1)
    loss = linear_loss(hidden.reshape(-1, hidden.shape[-1]), model.head_weight, targets=targets)
    return BatchLoss(total=loss.total, entropy=loss.entropy, tokens=targets.numel())


def answers_only(teacher: HybridLM | None = None) -> Objective:
    """Cross-entropy of the answers' tokens, or KL(teacher || student) where they are predicted.

    ``documents`` are the segments of ``data.load_instructions``: odd ones are answers, 2 k and 2 k
    + 1 one example, which sees no other. Only the hidden states that predict an answer meet the
    head.
    """

    def objective(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
        if documents is None:
            raise ValueError("answers_only needs the segments: set isolate_documents")
        examples, wanted = documents // 2, documents[:, 1:] % 2 == 1
        hidden = model.hidden_states(tokens, examples)[:, :-1][wanted]
        if teacher is None:
            found = linear_loss(hidden, model.head_weight, targets=tokens[:, 1:][wanted])
        else:
            with torch.no_grad():
                target = teacher.hidden_states(tokens, examples)[:, :-1][wanted]
            found = linear_loss(hidden, model.head_weight, (target, teacher.head_weight))
        return BatchLoss(total=found.total, entropy=found.entropy, tokens=len(hidden))

    return objective


def distillation(teacher: HybridLM, loss: str = DEFAULT_LOSS) -> Objective:
    """What ``loss`` names (``recipe.loss_terms``) between teacher and student at every position.

    The teacher runs without gradients and is never changed. Raises: UserError for a loss that is
    not known.
    """
    terms = loss_terms(loss)
    name = next((name for name in terms if name in DIVERGENCES), "")
    cosine, cross_entropy = terms.get("cosine", 0.0), terms.get("cross-entropy", 0.0)

    @steady
    def objective(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
        with (
            torch.no_grad()
        ):  # not inference mode: its tensors cannot be saved for the student's backward pass
            target = teacher.hidden_states(tokens, documents)
        hidden = model.hidden_states(tokens, documents)
        length = hidden.shape[1] - bool(cross_entropy)  # the last position has no next token
        student, wanted = (h[:, :length].reshape(-1, h.shape[-1]) for h in (hidden, target))
        found = linear_loss(
            student,
            model.head_weight,
            (wanted, teacher.head_weight),
            tokens[:, 1:].reshape(-1) if cross_entropy else None,
            divergence=DIVERGENCES.get(name, FORWARD_KL),
            weight=terms.get(name, 0.0),
            target_weight=cross_entropy,
        )
        total = found.total if not cosine else found.total + cosine * _cosine(student, wanted)
        return BatchLoss(total=total, entropy=found.entropy, tokens=student.shape[0])

    return objective


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over tokens of 1 - cos of the states before the heads, float64.

    Source: arXiv:2411.19146, L_cosine, which takes every layer; here the last, since pruned
    students have fewer.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise UserError(
            "The cosine loss compares hidden states of one size.",
            got=f"student {student.shape[-1]}, teacher {teacher.shape[-1]} channels",
            allowed="equal hidden sizes",
            next="Leave cosine out of --loss.",
        )
    return (
        (1 - torch.nn.functional.cosine_similarity(student.float(), teacher.float(), dim=-1))
        .double()
        .sum()
    )


def check_vocabularies(student: int, teacher: int) -> None:
    """Raises: UserError where the two heads cannot be compared word by word."""
    if student != teacher:
        raise UserError(
            "Student and teacher have different vocabularies.",
            got=f"student {student:,}, teacher {teacher:,}",
            allowed="the same tokenizer and the same padded vocabulary size",
            next="Name the checkpoint that the student was pruned from with --teacher.",
        )
