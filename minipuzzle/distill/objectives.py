"""What a batch is worth: distillation from a teacher, or plain next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minipuzzle.distill.losses import cross_entropy_loss, kl_loss
from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM

Objective = Callable[[HybridLM, Tensor, Tensor | None], tuple[Tensor, int]]
"""(model, tokens [b, s], documents [b, s] or None) -> (summed loss in nats, the number of tokens it sums over)."""


def next_token(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> tuple[Tensor, int]:
    """Cross-entropy of each token but the first of a block, given those before it."""
    hidden = model.hidden_states(tokens, documents)[:, :-1]
    targets = tokens[:, 1:].reshape(-1)
    loss = cross_entropy_loss(hidden.reshape(-1, hidden.shape[-1]), model.head_weight, targets)
    return loss, targets.numel()


def answers_only(teacher: HybridLM | None = None) -> Objective:
    """Cross-entropy of the answers' tokens, or KL(teacher || student) where they are predicted.

    ``documents`` are the segments of ``data.load_instructions``: odd ones are answers, 2 k and 2 k + 1 one example, which
    sees no other. Only the hidden states that predict an answer meet the head.
    """

    def objective(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> tuple[Tensor, int]:
        if documents is None:
            raise ValueError("answers_only needs the segments: set isolate_documents")
        examples, wanted = documents // 2, documents[:, 1:] % 2 == 1
        hidden = model.hidden_states(tokens, examples)[:, :-1][wanted]
        if teacher is None:
            return cross_entropy_loss(hidden, model.head_weight, tokens[:, 1:][wanted]), len(hidden)
        with torch.no_grad():
            target = teacher.hidden_states(tokens, examples)[:, :-1][wanted]
        return kl_loss(hidden, model.head_weight, target, teacher.head_weight), len(hidden)

    return objective


def distillation(teacher: HybridLM) -> Objective:
    """KL(teacher || student) at every position. The teacher runs without gradients and is never changed."""

    def objective(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> tuple[Tensor, int]:
        with torch.no_grad():
            target = teacher.hidden_states(tokens, documents)
        hidden = model.hidden_states(tokens, documents)
        loss = kl_loss(
            hidden.reshape(-1, hidden.shape[-1]), model.head_weight, target.reshape(-1, target.shape[-1]),
            teacher.head_weight,
        )  # fmt: skip
        return loss, tokens.numel()

    return objective


def check_vocabularies(student: int, teacher: int) -> None:
    """Raises: UserError where the two heads cannot be compared word by word."""
    if student != teacher:
        raise UserError(
            "Student and teacher have different vocabularies.", got=f"student {student:,}, teacher {teacher:,}",
            allowed="the same tokenizer and the same padded vocabulary size",
            next="Name the checkpoint that the student was pruned from with --teacher.",
        )  # fmt: skip
