"""What a training holds on each GPU, by term: the one formula of ``distill --plan`` and of the
check before a run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Block
from minipuzzle.memory.backward import BlockBytes, worst_moment
from minipuzzle.memory.loss import loss_bytes
from minipuzzle.memory.optimizers import Held, eight_bit, half, held_by_block, pinned_bytes, stacked
from minipuzzle.memory.peak import Peak
from minipuzzle.settings.training import Optimizer

# Bytes a parameter of plain AdamW: what adds up over steps is in FP32, products are in BF16.
BF16 = 2
MASTER = 4
GRADIENT = 4
MOMENTS = 8

# An FP8 weight, and the FP32 scale of a matrix of them.
CODE, SCALE = 1, 4

# What libraries of products keep beside the loss's buffers.
WORKSPACES = 1 << 26

# CUDA's context, NCCL's buffers and the allocator's rounding.
HELD_BACK = 3 << 30

# On disk while a model is trained: the newest state, and the one that is being written.
STATES_AT_ONCE = 2

TEACHER, CODES = "teacher, BF16", "teacher, FP8 codes"
MASTERS, FROZEN = "student, FP32 masters", "student, BF16, frozen"
ADAPTER, RESERVE = "adapter, FP32", "held back"
HALVES = "student, BF16 matrices"
ADAM, AVERAGE = "Adam moments, FP32", "average, FP32"
LOADED = (TEACHER, CODES, MASTERS, HALVES, FROZEN, ADAPTER)
"""The terms that lie on the GPU before the first step."""


def training_peak(
    student: Architecture,
    tokens: int,
    *,
    teacher: Architecture | None = None,
    teacher_ends: int | None = None,
    gpus: int = 1,
    recomputed: Collection[str] = (),
    trained: int | None = None,
    stacks: bool = False,
    averaged: bool = False,
    accumulates: bool = False,
    context_parallel: int = 1,
    expert_parallel: int = 1,
    twice: bool = False,
    optimizer: Optimizer = "adamw",
    offload: bool = False,
    whole_teacher: bool = False,
    gathered: bool = False,
) -> Peak:
    """Bytes on each of ``gpus`` GPUs that share one student and one teacher, at the worst moment of
    a step that takes ``tokens`` tokens at once on each; what is measured beside it:
    docs/decisions/memory-of-a-step.md.

    ``trained`` None trains the student, whose weights, gradients and two Adam moments, as the
    ``optimizer`` holds them, are in shards; a number is that of an adapter's parameters, with those
    of plain AdamW whole on every GPU beside a frozen student in BF16; it is on ``stacks`` of
    matrices too. ``averaged`` keeps the mean of what is trained besides, ``twice`` the blocks as
    they are served. Blocks of the kinds ``recomputed`` keep their input, and one of them at a time
    everything. A step of several micro-batches ``accumulates``. Where ``context_parallel`` GPUs
    have a part of each sequence each, ``tokens`` are those of one part, beside which a block holds
    the others' keys and values. Where ``expert_parallel`` of them share experts, these are never
    gathered, and a block holds the tokens that came to its own: with even choices as many as went.
    With ``teacher_ends`` the teacher multiplies in FP8 but for so many blocks at either end, and
    holds codes in place of those weights where it is whole. With ``offload`` what the optimiser
    holds is elsewhere (``offloaded_peak``), and one GPU gathers weights too. ``whole_teacher``,
    ``gathered``: see ``Division``.
    """
    alone = 1 if whole_teacher else gpus
    terms = _teacher(teacher, teacher_ends, alone, expert_parallel)
    if trained is None:
        narrow, eight = half(optimizer), eight_bit(optimizer)
        own = held_by_block(student, optimizer, gpus, expert_parallel)
        shared, count = gpus, _on_all(student, gpus, expert_parallel)
        whole = sum(own, Held())
        terms[HALVES if narrow else MASTERS] = whole.weights // shared
    else:
        narrow, eight, shared, count = False, False, 1, trained
        own = [Held()] * (len(student.blocks) + 1)
        whole = Held(
            weights=MASTER * trained, gradients=GRADIENT * trained, moments=MOMENTS * trained
        )
        terms |= {FROZEN: BF16 * student.parameters // gpus, ADAPTER: whole.weights}
    matrices = sum(block.parameters for block in student.blocks)
    others = tokens * (context_parallel - 1)
    # Our AdamW writes them beside its masters; else autocast makes them anew in each forward pass.
    written = 0
    if offload:
        own = [Held()] * len(own)
    if gpus == 1 and trained is None and not (eight or twice or offload):
        written = sum(block.copies for block in own)
        own = [_beside_copies(block, accumulates) for block in own]
    each = _bytes_at_work(gpus, trained is None, offload) - 2 * BF16 * gathered
    stay = gathered, expert_parallel
    made = _blocks(student, own, tokens, others, gpus, recomputed, stacks, each, *stay)
    sums = sum(block.gradients for block in made) + own[-1].gradients // gpus
    sharded = each > 0 and trained is None
    at_ends = _ends(student, own[-1], gpus, sharded=sharded, offload=offload)
    # A frozen head is BF16, and so is one in shards once it is gathered.
    master = trained is None and not (sharded or narrow)
    at_ends["loss"] = WORKSPACES + loss_bytes(
        tokens,
        student.vocab_size,
        copies=BF16 * student.vocab_size * student.hidden * master,
        rounded=trained is None and not master,
    )
    worst = worst_moment(made, **at_ends, summed=sums if accumulates else 0)
    # The final norm's output in BF16, and its gradient in FP32; its input is the last block's.
    ends = (BF16 + GRADIENT) * tokens * student.hidden
    taught = teacher if alone > 1 else None
    copies = _gathered(student, taught, gpus, trained, offload, gathered)
    peak = Peak(
        terms={
            **terms,
            f"gradients, {'BF16' if narrow or (written and not accumulates) else 'FP32'}": (
                worst.gradients if trained is None else whole.gradients
            ),
            "Adam moments, 8 bits" if eight else ADAM: whole.moments // shared,
            "compute copies": written + worst.copies + copies,
            "activations": worst.activations + ends,
            "loss or backward at work": worst.working,
            RESERVE: HELD_BACK,
            **({AVERAGE: MASTER * count // shared} if averaged else {}),
            **({"blocks as served, FP32": MASTER * matrices // shared} if twice else {}),
        }
    )
    return peak.without((MASTERS, ADAM, AVERAGE)) if offload else peak


def offloaded_peak(student: Architecture, gpus: int = 1, *, averaged: bool = False) -> Peak:
    """Bytes of the CPU's memory for each of ``gpus`` GPUs whose optimiser is offloaded."""
    pinned, count = pinned_bytes(student, gpus), student.parameters // gpus
    return Peak(
        terms={
            MASTERS: pinned,
            "gradients, FP32": pinned,
            ADAM: MOMENTS * count,
            **({AVERAGE: MASTER * count} if averaged else {}),
        }
    )


def _teacher(
    teacher: Architecture | None, ends: int | None, gpus: int, together: int
) -> dict[str, int]:
    """What lies of a teacher on each GPU: a matrix as codes is a byte a weight, and a scale."""
    if teacher is None:
        return {}
    whole = BF16 * _on_all(teacher, gpus, together) // gpus
    if ends is None or gpus > 1:  # those in shards stay as they are
        return {TEACHER: whole}
    inner = teacher.blocks[ends : len(teacher.blocks) - ends]
    sizes = [rows * columns for block in inner for rows, columns in block.projections.values()]
    return {CODES: whole - (BF16 - CODE) * sum(sizes) + SCALE * len(sizes)}


def _beside_copies(block: Held, accumulates: bool) -> Held:
    """A block whose matrices have BF16 copies, and BF16 gradients unless those are summed."""
    less = 0 if accumulates else (GRADIENT - BF16) // BF16 * block.copies
    return replace(block, gradients=block.gradients - less, copies=0)


def saved_bytes(block: Block) -> int:
    """BF16 bytes a token that a block keeps for its backward pass."""
    return BF16 * block.saved_values()


def state_bytes(trained: int, *, averaged: bool = False, each: float = MASTER + MOMENTS) -> int:
    """Of one saved state of ``trained`` parameters, on disk, at ``each`` bytes
    (``state_bytes_each``); ``averaged``: with their mean.
    """
    return round((each + MASTER * averaged) * trained)


def _on_all(model: Architecture, gpus: int, together: int) -> int:
    """Parameters that all GPUs hold, of which ``together`` share the experts."""
    more = sum(stacked(block, gpus, together) - stacked(block) for block in model.blocks)
    return model.parameters + more


def _gathered(
    student: Architecture,
    teacher: Architecture | None,
    gpus: int,
    trained: int | None,
    offload: bool,
    gathered: bool,
) -> int:
    """Of weights but blocks', in the dtype of products, beside the shards or an adapter's masters;
    the ``teacher`` is one in shards.
    """
    own = 0 if trained is None else BF16 * trained
    if gpus == 1 and not offload:
        return own
    # Heads stay gathered for the whole step, and the embedding where blocks do.
    ends = [student] if teacher is None else [student, teacher]
    ends += [student] if gathered and not student.tied_head else []
    return own + BF16 * sum(model.vocab_size * model.hidden for model in ends)


def _blocks(
    student: Architecture,
    own: Sequence[Held],
    tokens: int,
    others: int,
    gpus: int,
    recomputed: Collection[str],
    stacks: bool,
    at_work: float,
    gathered: bool,
    together: int,
) -> list[BlockBytes]:
    """What each block of a student holds in a step, of which the optimiser holds ``own``, and
    beside activations ``at_work`` bytes a parameter when its turn comes, ``gathered`` or not.
    """
    return [
        BlockBytes(
            gradients=mine.gradients // gpus,
            copies=mine.copies if gpus == 1 else 0,
            gathered=round(_at_work(block, BF16 * gathered, together, own=0)),
            kept=tokens * (saved_bytes(block) + BF16 * block.adapter_values() * stacks)
            + (BF16 * block.cache(others).kv if others else 0)
            + (BF16 * _came(block, tokens, together) if together > 1 else 0),
            given=BF16 * tokens * student.hidden,
            recomputed=block.kind in recomputed,
            working=round(
                BF16 * tokens * block.backward_values() + _at_work(block, at_work, together)
            ),
        )
        for block, mine in zip(student.blocks, own, strict=False)
    ]


def _at_work(block: Block, each: float, together: int, own: int = BF16 + GRADIENT) -> float:
    """Bytes of a block's parameters, ``each`` of what is gathered, which divided experts are not:
    the gradient of its own is there in BF16, and in FP32 while it is divided by the number of GPUs.
    """
    if together == 1:
        return each * block.parameters
    return each * (block.parameters - stacked(block)) + own * stacked(block, 1, together)


def _came(block: Block, tokens: int, together: int) -> int:
    """Values that a block with divided experts keeps besides: the tokens that came to its own, and
    copies of these in the dtype of products.
    """
    return round(tokens * block.sent_values(together)) + stacked(block, 1, together)


def _bytes_at_work(gpus: int, trained: bool, offload: bool) -> float:
    """Of a parameter in shards: its block is gathered, and so is the next; its gradient is whole
    once in BF16, and once in FP32 to be summed over the GPUs. Offloaded, its FP32 shard is on its
    way up, there in BF16 too, and that of its gradient on its way down.
    """
    if gpus == 1 and not offload:
        return 0.0
    moved = (MASTER + BF16 + GRADIENT) / gpus if offload else 0.0
    return 2 * BF16 + (BF16 + GRADIENT) * trained + moved


def _ends(
    student: Architecture, top: Held, gpus: int, *, sharded: bool, offload: bool
) -> dict[str, int]:
    """For ``worst_moment``: bytes of the gradients that the loss makes, of the head and the final
    norm, and of what the end makes, the embedding's; a tied matrix has its own from the loss on. In
    shards, the head's is whole in BF16 until the end, which sums it in FP32.
    """
    if sharded:
        numbers = student.vocab_size * student.hidden
        shards = GRADIENT * numbers if offload else top.gradients
        end = GRADIENT * numbers + shards // gpus
        return {"head": BF16 * numbers, "end": end}
    matrix = (top.gradients - GRADIENT * student.hidden) // 2
    last = 0 if student.tied_head else matrix
    return {"head": top.gradients - last, "end": last}
