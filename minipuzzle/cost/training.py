"""What a training step costs before it runs: its arithmetic, against a device's peak."""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.cost.flops import text_flops
from minipuzzle.memory import card_of
from minipuzzle.settings.lengths import Lengths


def training_flops(
    student: Architecture, length: int, teacher: Architecture | None = None, frozen: bool = False
) -> int:
    """Operations a token of a training step: the student forward and twice that backward, the
    teacher forward.

    ``frozen`` weights, beside which an adapter is trained, have no gradient: backward is one
    forward's. Recomputed work (activation checkpointing, the loss's second pass) does not count, as
    usual for MFU (arXiv:2204.02311, appendix B).
    """
    teaching = 0 if teacher is None else text_flops(teacher, length).total
    return (2 if frozen else 3) * text_flops(student, length).total + teaching


def mean_flops(
    student: Architecture,
    lengths: Lengths,
    teacher: Architecture | None = None,
    frozen: bool = False,
) -> int:
    """``training_flops`` of the mean token, of blocks of several lengths in their shares."""
    return round(sum(share * training_flops(student, n, teacher, frozen) for n, share in lengths))


def peak_flops(device_name: str) -> float | None:
    """Dense BF16 FLOP/s of a device by its CUDA name ("NVIDIA H100 80GB HBM3"); None where it is
    not in the table.
    """
    card = card_of(device_name)
    return None if card is None else card.bf16
