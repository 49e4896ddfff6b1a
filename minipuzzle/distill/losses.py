"""Losses from hidden states: the head's product, the softmax and their gradients a chunk of tokens at a time.

Neither model's full logits ever exist: at 131,072 words and 8,192 tokens they would take 4 GiB each in FP32. Logits are
FP32 *results* of the matrix product. Rounding them to BF16 first ruins the gradient late in distillation (18 % error
at 0.03 nats, measured in the reference), because the gradient is a difference of nearly equal probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minipuzzle.model.head import matmul_fp32

CHUNK_TOKENS = 1024


class _LinearKL(torch.autograd.Function):
    """Sum over tokens of KL(teacher || student); the gradient is made in the forward pass, where the logits are."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor) -> Any:
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros_like(head, dtype=torch.float32)
        loss, entropy = torch.zeros(2, device=hidden.device, dtype=torch.float64)
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            student = torch.log_softmax(matmul_fp32(hidden[part], head.t()), -1)
            teacher = torch.log_softmax(matmul_fp32(teacher_hidden[part], teacher_head.t()), -1)
            probability = teacher.exp()
            loss += (probability * (teacher - student)).sum()
            entropy -= (probability * teacher).sum()
            _accumulate(student.exp().sub_(probability), hidden[part], head, d_hidden[part], d_head)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(entropy)
        return loss, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_hidden, d_head = ctx.saved_tensors
        scale = grads[0]
        return (d_hidden * scale).to(d_hidden.dtype), (d_head * scale).to(ctx.head_dtype), None, None


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over tokens of -log p(target)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros_like(head, dtype=torch.float32)
        loss = torch.zeros((), device=hidden.device, dtype=torch.float64)
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            log_p = torch.log_softmax(matmul_fp32(hidden[part], head.t()), -1)
            wanted = targets[part, None]
            loss -= log_p.gather(1, wanted).sum()
            gradient = log_p.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=torch.float32))
            _accumulate(gradient, hidden[part], head, d_hidden[part], d_head)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.head_dtype = head.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_hidden, d_head = ctx.saved_tensors
        scale = grads[0]
        return (d_hidden * scale).to(d_hidden.dtype), (d_head * scale).to(ctx.head_dtype), None


def _accumulate(d_logits: Tensor, hidden: Tensor, head: Tensor, d_hidden: Tensor, d_head: Tensor) -> None:
    rounded = d_logits.to(hidden.dtype)  # the small difference is rounded, not the large logits
    d_hidden.copy_(matmul_fp32(rounded, head))
    d_head += matmul_fp32(rounded.t(), hidden)


def kl_loss(
    hidden: Tensor, head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor
) -> tuple[Tensor, Tensor]:
    """(sum over tokens of KL(teacher || student), of the teacher's entropy) in nats, temperature 1; float64 scalars.

    ``hidden`` [n, d_student] and ``teacher_hidden`` [n, d_teacher] are the states just before the heads, ``head`` and
    ``teacher_head`` [vocab, d]. Gradients reach ``hidden`` and ``head`` only.
    Source: arXiv:2504.03624 (logits-only forward KL), arXiv:2407.14679, eq. for L_logits.
    """
    dtype = torch.promote_types(hidden.dtype, head.dtype) if not hidden.is_cuda else hidden.dtype
    result: tuple[Tensor, Tensor] = _LinearKL.apply(
        hidden.to(dtype), head.to(dtype), teacher_hidden.detach(), teacher_head.detach().to(teacher_hidden.dtype)
    )
    return result


def cross_entropy_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Sum over tokens of the next token's negative log probability, in nats; float64 scalar. ``targets`` [n] int64."""
    dtype = torch.promote_types(hidden.dtype, head.dtype) if not hidden.is_cuda else hidden.dtype
    result: Tensor = _LinearCrossEntropy.apply(hidden.to(dtype), head.to(dtype), targets)
    return result
