"""What a training step costs before it runs: arithmetic against a device's peak, and bytes against
its memory.
"""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.kinds import Block
from minipuzzle.memory import card_of

UPDATE_BYTES = 14
"""A trained parameter beyond its FP32 value: gradient and two Adam moments in FP32, and autocast's
copy in BF16.
"""
STATE_BYTES = 12
"""A trained parameter in a saved state: its FP32 value and two Adam moments."""
STATES_AT_ONCE = 2
"""On disk while a model is trained: the newest one, and the one that is being written
(``training.checkpointing``).
"""
LOSS_BYTES = 3 << 29
"""Logits, their gradients and copies of heads in the loss (``training.losses``), and what libraries
keep: 1.5 GiB.
"""


def training_flops(
    student: Architecture, length: int, teacher: Architecture | None = None, frozen: bool = False
) -> int:
    """Operations a token of a training step: the student forward and twice that backward, the
    teacher forward.

    ``frozen`` weights, beside which an adapter is trained, have no gradient: backward is one
    forward's. Recomputed work (activation checkpointing, the loss's second pass) does not count, as
    usual for MFU (arXiv:2204.02311, appendix B).
    """
    context = (length + 1) // 2
    teaching = 0 if teacher is None else flops_per_token(teacher, context).total
    return (2 if frozen else 3) * flops_per_token(student, context).total + teaching


def peak_flops(device_name: str) -> float | None:
    """Dense BF16 FLOP/s of a device by its CUDA name ("NVIDIA H100 80GB HBM3"); None where it is
    not in the table.
    """
    card = card_of(device_name)
    return None if card is None else card.bf16


def training_bytes(
    student: Architecture,
    tokens: int,
    *,
    checkpointing: bool,
    ranks: int = 1,
    trained: int | None = None,
) -> int:
    """What a step needs on a GPU beyond the weights that lie there, for ``tokens`` tokens at once,
    BF16 activations.

    With activation checkpointing each block keeps its input, and one block at a time everything.
    ``ranks`` GPUs share gradients and optimiser states of ``trained`` parameters (None: of all; an
    adapter's are few).
    """
    kept = [tokens * saved_bytes(block) for block in student.blocks]
    inputs = 2 * tokens * student.hidden * len(kept) + max(kept, default=0)
    ends = (
        6 * tokens * student.hidden
    )  # the final norm's input and output, and the FP32 gradient of its output
    updated = student.parameters if trained is None else trained
    return (
        updated * UPDATE_BYTES // ranks
        + (inputs if checkpointing else sum(kept))
        + ends
        + LOSS_BYTES
    )


def state_bytes(trained: int) -> int:
    """Of one saved state of ``trained`` parameters, on disk."""
    return STATE_BYTES * trained


def saved_bytes(block: Block) -> int:
    """BF16 bytes a token that a block keeps for its backward pass."""
    return 2 * block.saved_values()
