"""What a search holds, by term, before it begins: the parent whole, or two of its blocks and the
streams of candidates that are measured together; its own answers to the text, and what a batch
takes. Candidates are masks, which take nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.memory.peak import Peak
from minipuzzle.memory.scoring import HEADROOM, PIECES, heaps
from minipuzzle.units import GIB

# Of a chunk of predictions over the vocabulary, in FP32: logarithms of both, the parent's
# probabilities, a difference and a product.
CHUNKS = 5

# Beside the streams a batch of what has passed a block; at the end its norm, and what predicts.
PASSED, ENDS = 1, 2

# What a stream begins with, as the table has it and in the stream's dtype.
EMBEDDED = 2

# Of streams where the parent is read block by block, as of a scoring by default.
ACTIVATIONS = 16 * GIB


@dataclass(frozen=True, kw_only=True)
class SearchLoad:
    """What one process's search does, in bytes: the parent's ``weights``, those of each of its
    ``blocks``, and its ``head``; ``answers``, its last hidden states of the ``rows`` blocks of
    text, ``row`` those of one, of which there are ``batch`` at once. ``together`` candidates are
    measured in one pass, and ``waiting`` batches wait where they part; ``working`` is the largest
    working set of a block's forward; ``chunk``, the FP32 logits of the predictions that are
    compared at once; ``piece``, what is read from disk at once; ``rounded``, the matrices once
    more, where candidates have formats, ``rounding`` those of a block and what rounding it takes.
    """

    weights: int
    blocks: tuple[int, ...]
    head: int
    rows: int
    row: int
    batch: int
    together: int
    waiting: int
    working: int
    chunk: int
    piece: int
    rounded: int = 0
    rounding: int = 0

    @property
    def answers(self) -> int:
        """The parent's."""
        return self.rows * self.row

    @property
    def io(self) -> int:
        """Buffers between disk and memory."""
        return PIECES * self.piece


def search_peak(load: SearchLoad, process: int | None = None) -> Peak:
    """The peak on the device that computes, which holds the parent. With ``process``, the bytes
    that this process holds already, that is the CPU, where what is freed goes back later.
    """
    parent = {"the parent": load.weights}
    answers = parent | {"the parent's answers": load.answers}
    copies = answers | ({"rounded weights": load.rounded} if load.rounded else {})
    phases = [
        (parent | {"I/O buffers": load.io}, 0),
        *_computing(load, copies, answers, 1 + load.waiting),
    ]
    return _largest(load, phases, process)


def streamed_peak(load: SearchLoad, rows: int, process: int | None = None) -> Peak:
    """The same where the parent is read block by block, and ``rows`` blocks of text pass all
    candidates that are measured together.
    """
    held = {"head": load.head, "the parent's answers": load.answers}
    held |= {"streams of candidates": load.together * rows * load.row}
    pairs = zip(load.blocks, (*load.blocks[1:], 0), strict=True)
    walking = held | {"two blocks": max(map(sum, pairs)), "I/O buffers": load.io}
    walking |= {"rounded weights": load.rounding} if load.rounding else {}
    embedding = held | {"I/O buffers": load.io, "embedding's rows": EMBEDDED * rows * load.row}
    phases = [(embedding, rows * load.row), *_computing(load, walking, held, 0)]
    return _largest(load, phases, process)


def rows_that_fit(load: SearchLoad, free: int, process: int | None = None) -> int:
    """Blocks of text that may pass all candidates at once: as many as ACTIVATIONS and ``free``
    bytes hold, in whole batches, one batch at least.
    """
    beside = streamed_peak(load, 0, process).total
    room = min(ACTIVATIONS, int(free * (1 - HEADROOM)) - beside)
    batches = room // ((load.together + EMBEDDED) * load.row * load.batch)
    return min(load.rows, max(1, batches) * load.batch)


Phases = list[tuple[dict[str, int], int]]
"""Terms at a moment, and the largest block of memory that is given back then."""


def _computing(
    load: SearchLoad, walking: dict[str, int], comparing: dict[str, int], streams: int
) -> Phases:
    """While a batch passes a block, and while its end is compared; ``streams`` batches wait."""
    batch, logits = load.batch * load.row, CHUNKS * load.chunk
    passing = {"working set": load.working, "streams": (streams + PASSED) * batch}
    ending = {"metric buffers": logits, "streams": (streams + ENDS) * batch}
    return [(walking | passing, load.working), (comparing | ending, load.chunk)]


def _largest(load: SearchLoad, phases: Phases, process: int | None) -> Peak:
    if process is None:
        found = [terms for terms, _ in phases]
    else:
        found = [
            {"this process": process, **terms, **heaps(largest, load.piece)}
            for terms, largest in phases
        ]
    return Peak(terms=max(found, key=lambda terms: sum(terms.values())))
