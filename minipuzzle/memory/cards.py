"""The GPUs that are known by name: the one table of what they have."""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.units import GIB


@dataclass(frozen=True, kw_only=True)
class Card:
    """``memory`` in bytes is what CUDA calls the total, a little less than the size on the box
    (``size``); ``bandwidth`` in bytes/s, and dense products in FLOP/s with FP32 sums
    (``fp8`` None: no such units), are the vendor's data sheets'.
    """

    size: str
    memory: int
    bandwidth: float
    bf16: float
    fp8: float | None = None


CARDS = {
    "h100": Card(size="80 GB", memory=int(79.1 * GIB), bandwidth=3.35e12, bf16=989e12, fp8=1979e12),
    "h200": Card(
        size="141 GB", memory=int(139.8 * GIB), bandwidth=4.8e12, bf16=989e12, fp8=1979e12
    ),
    "a100": Card(size="80 GB", memory=int(79.15 * GIB), bandwidth=2.04e12, bf16=312e12),
    "rtx5090": Card(
        size="32 GB", memory=int(31.37 * GIB), bandwidth=1.79e12, bf16=209e12, fp8=419e12
    ),
}
PLANNED = {CARDS[name].size: CARDS[name] for name in ("h100", "h200")}
"""Those that ``distill --plan`` and ``bench --plan`` answer for, by their size."""


def card_of(device_name: str) -> Card | None:
    """The card of a CUDA name ("NVIDIA H100 80GB HBM3"); None where it is not in the table."""
    parts = device_name.lower().replace("rtx ", "rtx").replace("-", " ").split()
    return next((card for name, card in CARDS.items() if name in parts), None)
