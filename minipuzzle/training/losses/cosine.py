"""1 - cosine of the hidden states before the heads; both must have one hidden size.

arXiv:2411.19146, L_cosine, which takes every layer; here the last, since pruned students have
fewer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.training.losses.base import StateLoss


def _value(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape[-1] != teacher.shape[-1]:
        raise UserError(
            "The cosine loss compares hidden states of one size.",
            got=f"student {student.shape[-1]}, teacher {teacher.shape[-1]} channels",
            allowed="equal hidden sizes",
            next="Leave cosine out of distill.loss.",
        )
    cosine = F.cosine_similarity(student.float(), teacher.float(), dim=-1)  # [n]
    return (1 - cosine).double().sum()


LOSS = StateLoss(source="arXiv:2411.19146", value=_value)
