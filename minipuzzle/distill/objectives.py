"""What a batch is worth: distillation from a teacher, or plain next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minipuzzle.distill.losses import cross_entropy_loss, kl_loss
from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Sums over ``tokens`` tokens, in nats: the loss, which has a gradient, and the teacher's entropy (0 without one)."""

    total: Tensor
    entropy: Tensor
    tokens: int


Objective = Callable[[HybridLM, Tensor, Tensor | None], BatchLoss]
"""(model, tokens [b, s], documents [b, s] or None) -> what this batch costs."""


def next_token(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
    """Cross-entropy of each token but the first of a block, given those before it."""
    hidden = model.hidden_states(tokens, documents)[:, :-1]
    targets = tokens[:, 1:].reshape(-1)
    loss = cross_entropy_loss(hidden.reshape(-1, hidden.shape[-1]), model.head_weight, targets)
    return BatchLoss(total=loss, entropy=torch.zeros_like(loss), tokens=targets.numel())


def distillation(teacher: HybridLM) -> Objective:
    """KL(teacher || student) at every position. The teacher runs without gradients and is never changed."""

    def objective(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
        with torch.no_grad():
            target = teacher.hidden_states(tokens, documents)
        hidden = model.hidden_states(tokens, documents)
        loss, entropy = kl_loss(
            hidden.reshape(-1, hidden.shape[-1]), model.head_weight, target.reshape(-1, target.shape[-1]),
            teacher.head_weight,
        )  # fmt: skip
        return BatchLoss(total=loss, entropy=entropy, tokens=tokens.numel())

    return objective


def check_vocabularies(student: int, teacher: int) -> None:
    """Raises: UserError where the two heads cannot be compared word by word."""
    if student != teacher:
        raise UserError(
            "Student and teacher have different vocabularies.", got=f"student {student:,}, teacher {teacher:,}",
            allowed="the same tokenizer and the same padded vocabulary size",
            next="Name the checkpoint that the student was pruned from with --teacher.",
        )  # fmt: skip
