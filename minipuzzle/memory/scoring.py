"""What a scoring holds, by term, before it begins.

Two neighbouring blocks (one computes, the next is read), the streams' activations and the working
set of a block's forward, whatever the number of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from minipuzzle.memory.peak import Peak
from minipuzzle.units import GIB

# A piece of a tensor on its way from disk, and what checking it for NaN takes.
PIECES = 3

# Hidden states or logits of the parent and of a variant, and their difference or logarithms.
CHUNKS = 6

# CPU memory that CUDA's libraries and compiled kernels take once they are used (0.745 and 0.755
# GiB on an H100).
CUDA_LIBRARIES = 3 * GIB // 4

# glibc keeps what was freed at the end of a thread's heap, up to twice the largest block that was
# freed, blocks of more than 32 MiB apart, which it maps (mallopt(3), M_TRIM_THRESHOLD).
MAPPED = 1 << 25

# Share of the free memory of a GPU that is left to its allocator's rounding.
HEADROOM = 0.02

ACTIVATIONS = "activations"
HEAPS = "freed, kept by malloc"


@dataclass(frozen=True, kw_only=True)
class ScoringLoad:
    """What one process's scoring does, in bytes.

    At each block: its ``weights``, the ``working`` set of its forward, and how many ``variants``
    begin there. ``row`` is the hidden states of a sample: of ``samples`` for the parent, of
    ``shared`` for each variant, ``batch`` at once. ``head`` is that of a metric on logits, 0 for
    one on hidden states; ``keeps_end`` where the parent's last hidden states are kept for later
    rounds.
    ``piece`` is read from disk at once, ``chunk`` compared, ``saved`` written.
    """

    weights: tuple[int, ...]
    working: tuple[int, ...]
    variants: tuple[int, ...]
    samples: int
    shared: int
    row: int
    batch: int
    head: int
    keeps_end: bool
    piece: int
    chunk: int
    saved: int

    @property
    def io(self) -> int:
        """Buffers between disk and memory."""
        return PIECES * self.piece

    @property
    def kept(self) -> dict[str, int]:
        """What lies there from the first round on."""
        return {"parent's last hidden states": self.shared * self.row} if self.keeps_end else {}

    @property
    def activations(self) -> list[int]:
        """Of all streams so far, at each block."""
        streams = accumulate(self.variants)
        return [(self.samples + count * self.shared) * self.row for count in streams]

    @property
    def visits(self) -> list[dict[str, int]]:
        """The terms of computing, at each block."""
        following = (*self.weights[1:], 0)
        return [
            {"two blocks": here + after, "working set": working, "I/O buffers": self.io}
            for here, after, working in zip(self.weights, following, self.working, strict=True)
        ]

    @property
    def end(self) -> dict[str, int]:
        """The terms of comparing, after the last block."""
        terms = {"metric buffers": CHUNKS * self.chunk, "I/O buffers": self.io}
        return terms | ({"head": self.head} if self.head else {})


def heaps(computed: int, read: int) -> dict[str, int]:
    """What the heaps keep of the thread that computes and of the one that reads, by their largest
    blocks.
    """
    return {HEAPS: sum(2 * min(MAPPED, block) for block in (computed, read))}


def on_cpu(load: ScoringLoad, process: int) -> Peak:
    """The peak in CPU memory of a scoring that computes there, ``process`` bytes of which are held
    already.

    Memory that no stream has reached yet is not resident, so each visit has its own sum.
    """
    activations = load.activations
    phases = [
        {ACTIVATIONS: size} | visit | heaps(visit["working set"], load.piece)
        for size, visit in zip(activations, load.visits, strict=True)
    ]
    last = {ACTIVATIONS: activations[-1]} | load.end | heaps(load.chunk, load.piece)
    worst = _largest([*phases, last])
    return Peak(terms={"this process": process, **load.kept, **worst})


def on_gpu(load: ScoringLoad, process: int, free: int) -> tuple[Peak, Peak, bool]:
    """(the peak on a GPU with ``free`` bytes, that in CPU memory, whether the activations are on
    the GPU): there where all fits, else in pinned CPU memory.
    """
    computing = _largest([*load.visits, load.end])
    activations = load.activations[-1]
    host = {"this process": process, "CUDA's libraries": CUDA_LIBRARIES, "I/O buffers": load.io}
    host |= heaps(0, load.piece) | {"a part of the streams while they are saved": load.saved}
    whole = Peak(terms={**load.kept, ACTIVATIONS: activations, **computing})
    if whole.total <= free * (1 - HEADROOM):
        return whole, Peak(terms=host), True
    pinned = {"activations (pinned: too large for the GPU)": activations}
    device = Peak(terms={**computing, "a batch": load.batch * load.row})
    return device, Peak(terms={**host, **load.kept, **pinned}), False


def _largest(phases: list[dict[str, int]]) -> dict[str, int]:
    return max(phases, key=lambda terms: sum(terms.values()))
