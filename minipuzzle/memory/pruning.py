"""What a cut holds, by term, before it begins: while the file is written a part of it and the
tensor that is being cut; while it is checked two blocks of parent and student, in FP32, or a piece
of both heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.memory.peak import Peak
from minipuzzle.memory.scoring import CUDA_LIBRARIES, HEAPS, PIECES, heaps

# The tensor as it is read, what a cut along one of its dimensions leaves, and along the next.
TENSORS = 3

# What else a cut frees: the parts that the check for NaN makes.
FREED = 4

# Streams of parent and student, before and after a block.
STREAMS = 4

# Two blocks' readers.
READERS = 2


@dataclass(frozen=True, kw_only=True)
class PruneLoad:
    """What cutting one candidate does, in bytes: ``part``, what is gathered of a file before it is
    written; ``tensor``, the parent's largest. Of the check: ``blocks``, the largest neighbours of
    the parent and those of the student; ``working`` set of a block's forward; ``stream``, hidden
    states of the tokens it is checked on; ``heads``, a piece of both with its logits. ``piece`` is
    read from disk at once.
    """

    part: int
    tensor: int
    blocks: int
    working: int
    stream: int
    heads: int
    piece: int

    @property
    def cutting(self) -> dict[str, int]:
        """The terms of writing the file, in CPU memory. What is freed of each tensor lies between
        what stays, where malloc keeps it: 0.2 GiB of a model of 256 M parameters.
        """
        terms = {"a part of the file": self.part, "the tensor that is cut": TENSORS * self.tensor}
        return terms | {HEAPS: FREED * heaps(self.tensor, 0)[HEAPS]}

    @property
    def checking(self) -> list[dict[str, int]]:
        """Those of comparing logits: in the blocks, and after them."""
        streams = {"streams": STREAMS * self.stream}
        blocks = {"two blocks of parent and student": self.blocks, "working set": self.working}
        return [blocks | streams | self.buffers, {"heads": self.heads} | streams | self.buffers]

    @property
    def buffers(self) -> dict[str, int]:
        """Between disk and memory."""
        return {"I/O buffers": READERS * PIECES * self.piece}


def prune_on_cpu(load: PruneLoad, process: int) -> Peak:
    """The peak where the CPU does all of it, ``process`` bytes of which are held already."""
    kept = heaps(max(load.working, load.heads), load.piece)
    phases = [load.cutting, *(terms | kept for terms in load.checking)]
    return Peak(terms={"this process": process, **_largest(phases)})


def prune_on_gpu(load: PruneLoad, process: int) -> tuple[Peak, Peak]:
    """(the peak on the GPU that checks, that in CPU memory)."""
    host = {"this process": process, "CUDA's libraries": CUDA_LIBRARIES}
    own = _largest([load.cutting, load.buffers | heaps(0, load.piece)])
    return Peak(terms=_largest(load.checking)), Peak(terms=host | own)


def _largest(phases: list[dict[str, int]]) -> dict[str, int]:
    return max(phases, key=lambda terms: sum(terms.values()))
