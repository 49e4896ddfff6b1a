"""What a block computes and remembers. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What a block remembers of one sequence while it decodes, in values.

    ``kv``: keys and values of the whole context; ``state``: the recurrent state; ``window``: the
    last inputs of the convolution.
    """

    kv: int = 0
    state: int = 0
    window: int = 0


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations a token, a multiplication and an addition each counted as one."""

    matmul: int = 0
    attention: int = 0
    scan: int = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return self.matmul + self.attention + self.scan

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            matmul=self.matmul + other.matmul,
            attention=self.attention + other.attention,
            scan=self.scan + other.scan,
        )
