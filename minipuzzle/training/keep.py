"""How much of the teacher's logits is stored at each token."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from minipuzzle.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Keep:
    """``count`` vocabulary entries a token: the most likely ones and the rest's mass, or a random
    ``sample``.
    """

    count: int
    sample: bool

    @staticmethod
    def parse(text: str) -> Keep:
        """ "top-64" or "sampled-50". Raises: UserError for anything else."""
        found = re.fullmatch(r"(top|sampled)-([1-9]\d*)", text)
        if found is None:
            raise UserError(
                "What to keep of the teacher's logits?",
                got=text,
                allowed="top-K or sampled-K",
                next="For example top-64 for distill.teacher_keep.",
            )
        return Keep(count=int(found[2]), sample=found[1] == "sampled")

    def bytes_per_token(self, vocabulary: int) -> int:
        """Ids, FP16 log probabilities, and the rest's mass in FP32."""
        return self.count * (id_dtype(vocabulary).itemsize + 2) + (0 if self.sample else 4)


def id_dtype(vocabulary: int) -> torch.dtype:
    """What holds an entry's id."""
    return torch.uint16 if vocabulary <= 1 << 16 else torch.int32
