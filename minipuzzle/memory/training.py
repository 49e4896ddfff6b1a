"""What a training holds on each GPU, by term: the one formula of ``distill --plan`` and of the
check before a run.
"""

from __future__ import annotations

from collections.abc import Collection

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Block
from minipuzzle.memory.backward import BlockBytes, worst_moment
from minipuzzle.memory.peak import Peak

# Bytes a parameter. Products are in BF16; what Adam adds up over steps is in FP32.
BF16 = 2
MASTER = 4
GRADIENT = 4
MOMENTS = 8

# The loss's logits, their gradients and copies of heads, all in tiles, and what libraries keep:
# 1.5 GiB (tests/gpu/test_precision_gpu.py measures it at a vocabulary of 131,072).
LOSS_BYTES = 3 << 29

# CUDA's context, NCCL's buffers and the allocator's rounding.
HELD_BACK = 3 << 30

# On disk while a model is trained: the newest state, and the one that is being written.
STATES_AT_ONCE = 2

TEACHER, MASTERS, FROZEN = "teacher, BF16", "student, FP32 masters", "student, BF16, frozen"
ADAPTER, RESERVE = "adapter, FP32", "held back"
LOADED = (TEACHER, MASTERS, FROZEN, ADAPTER)
"""The terms that lie on the GPU before the first step."""


def training_peak(
    student: Architecture,
    tokens: int,
    *,
    teacher: Architecture | None = None,
    gpus: int = 1,
    recomputed: Collection[str] = (),
    trained: int | None = None,
    stacks: bool = False,
    averaged: bool = False,
    accumulates: bool = False,
    context_parallel: int = 1,
    twice: bool = False,
) -> Peak:
    """Bytes on each of ``gpus`` GPUs that share one student and one teacher, at the worst moment of
    a step that takes ``tokens`` tokens at once on each; what is measured beside it:
    docs/decisions/memory-of-a-step.md.

    ``trained`` None trains the student, whose FP32 masters, gradients and two Adam moments are in
    shards; a number is that of an adapter's parameters, whole on every GPU beside a frozen student
    in BF16; it is on ``stacks`` of matrices too. ``averaged``
    keeps the mean of what is trained besides, ``twice`` the blocks as they are served. Blocks of
    the kinds ``recomputed`` keep their input, and one of them at a time everything. A step of
    several micro-batches ``accumulates``. Where ``context_parallel`` GPUs have a part of each
    sequence each, ``tokens`` are those of one part, beside which a block holds the others' keys and
    values.
    """
    shared, updated = (gpus, student.parameters) if trained is None else (1, trained)
    terms = {} if teacher is None else {TEACHER: BF16 * teacher.parameters // gpus}
    if trained is None:
        terms[MASTERS] = MASTER * updated // shared
    else:
        terms |= {FROZEN: BF16 * student.parameters // gpus, ADAPTER: MASTER * updated}
    matrices = sum(block.parameters for block in student.blocks)
    others = tokens * (context_parallel - 1)
    blocks = _blocks(student, tokens, others, gpus, trained is None, recomputed, stacks)
    matrix = 0 if trained is not None else GRADIENT * student.vocab_size * student.hidden // gpus
    worst = worst_moment(
        blocks, head=matrix, embedding=0 if student.tied_head else matrix, accumulates=accumulates
    )
    # The final norm's output in BF16, and its gradient in FP32; its input is the last block's.
    ends = (BF16 + GRADIENT) * tokens * student.hidden
    return Peak(
        terms={
            **terms,
            "gradients, FP32": worst.gradients if trained is None else GRADIENT * updated,
            "Adam moments, FP32": MOMENTS * updated // shared,
            "compute copies": worst.copies + _gathered(student, teacher, gpus, trained),
            "activations": worst.activations + ends,
            "loss": LOSS_BYTES,
            RESERVE: HELD_BACK,
            **({"average, FP32": MASTER * updated // shared} if averaged else {}),
            **({"blocks as served, FP32": MASTER * matrices // shared} if twice else {}),
        }
    )


def saved_bytes(block: Block) -> int:
    """BF16 bytes a token that a block keeps for its backward pass."""
    return BF16 * block.saved_values()


def state_bytes(trained: int, *, averaged: bool = False) -> int:
    """Of one saved state of ``trained`` parameters, on disk; ``averaged``: with their mean."""
    return (MASTER + MOMENTS + MASTER * averaged) * trained


def _gathered(
    student: Architecture, teacher: Architecture | None, gpus: int, trained: int | None
) -> int:
    """Of weights, in the dtype of products, beside the shards or an adapter's masters."""
    own = 0 if trained is None else BF16 * trained
    if gpus == 1:
        return own
    models = [student] if teacher is None else [student, teacher]
    heads = [model.vocab_size * model.hidden for model in models]
    blocks = [max((block.parameters for block in m.blocks), default=0) for m in models]
    # Heads stay gathered for the whole step, and two blocks: the one at work and the next.
    gathered = BF16 * sum(heads) + 2 * BF16 * max(blocks)
    if trained is not None:
        return gathered + own
    # The largest gradient is whole once in BF16, and once in FP32 to be summed over the GPUs.
    return gathered + (BF16 + GRADIENT) * max(blocks[0], heads[0])


def _blocks(
    student: Architecture,
    tokens: int,
    others: int,
    gpus: int,
    whole: bool,
    recomputed: Collection[str],
    stacks: bool,
) -> list[BlockBytes]:
    """What each block of a student holds in a step that trains the ``whole`` of it, or nothing but
    an adapter. On one GPU autocast casts each trained weight once.
    """
    return [
        BlockBytes(
            gradients=GRADIENT * block.parameters // gpus if whole else 0,
            copies=BF16 * block.parameters if whole and gpus == 1 else 0,
            kept=tokens * (saved_bytes(block) + BF16 * block.adapter_values() * stacks)
            + (BF16 * block.cache(others).kv if others else 0),
            given=BF16 * tokens * student.hidden,
            recomputed=block.kind in recomputed,
        )
        for block in student.blocks
    ]
