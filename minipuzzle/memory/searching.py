"""What a search holds, by term, before it begins: the parent whole, its own answers to the text,
and what one masked forward over a batch takes. Its candidates are masks, which take nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.memory.peak import Peak
from minipuzzle.memory.scoring import PIECES, heaps

# Of a chunk of predictions over the vocabulary, in FP32: logarithms of both, the parent's
# probabilities, a difference and a product.
CHUNKS = 5

# The stream before and after a block.
STREAMS = 2


@dataclass(frozen=True, kw_only=True)
class SearchLoad:
    """What one process's search does, in bytes: the parent's ``weights``; ``rows``, its last hidden
    states of the text, ``batch`` those of a batch, ``waiting`` of which wait where candidates that
    are measured together part; ``working``, the largest working set of a
    block's forward; ``chunk``, the FP32 logits of the predictions that are compared at once;
    ``piece``, what is read from disk at once; ``rounded``, its matrices once more, where candidates
    have formats.
    """

    weights: int
    rows: int
    batch: int
    waiting: int
    working: int
    chunk: int
    piece: int
    rounded: int = 0


def search_peak(load: SearchLoad, process: int | None = None) -> Peak:
    """The peak on the device that computes. With ``process``, the bytes that this process holds
    already, that is the CPU, where what is freed goes back later.
    """
    parent, waiting = {"the parent": load.weights}, load.waiting * load.batch
    answers = parent | {"the parent's answers": load.rows}
    copies = answers | ({"rounded weights": load.rounded} if load.rounded else {})
    phases = [
        (parent | {"I/O buffers": PIECES * load.piece}, 0),
        (answers | {"answers before they are joined": load.rows}, load.working),
        (
            copies | {"working set": load.working, "streams": STREAMS * load.batch + waiting},
            load.working,
        ),
        (
            copies | {"metric buffers": CHUNKS * load.chunk, "streams": load.batch + waiting},
            load.chunk,
        ),
    ]
    if process is None:
        found = [terms for terms, _ in phases]
    else:
        found = [
            {"this process": process, **terms, **heaps(largest, load.piece)}
            for terms, largest in phases
        ]
    return Peak(terms=max(found, key=lambda terms: sum(terms.values())))
