"""What a scoring holds, by term, before it begins.

Two neighbouring blocks (one computes, the next is read), the working set of a block's forward, and
the streams' activations, which a limit bounds (``passes``), whatever the number of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from minipuzzle.memory.passes import Pass, first_round
from minipuzzle.memory.peak import Peak
from minipuzzle.units import GIB

# A piece of a tensor on its way from disk, and what checking it for NaN takes.
PIECES = 3

# Hidden states or logits of the parent and of a variant, and their difference or logarithms.
CHUNKS = 6

# CPU memory that CUDA's libraries and compiled kernels take once they are used (0.745 and 0.755
# GiB on an H100).
CUDA_LIBRARIES = 3 * GIB // 4

# What Triton and PyTorch's compiler take besides in the process that first runs a model's kernels
# on a machine (0.77 GiB on an H200).
COMPILERS = 13 * GIB // 16

# glibc keeps what was freed at the end of a thread's heap, up to twice the largest block that was
# freed, blocks of more than 32 MiB apart, which it maps (mallopt(3), M_TRIM_THRESHOLD).
MAPPED = 1 << 25

# Share of the free memory that is left to the allocator's rounding.
HEADROOM = 0.02

ACTIVATIONS = "activations"
HEAPS = "freed, kept by malloc"


@dataclass(frozen=True, kw_only=True)
class ScoringLoad:
    """What one process's scoring does, in bytes.

    At each block: its ``weights``, the ``working`` set of its forward, and how many ``variants``
    begin there. ``row`` is the hidden states of a sample: of ``samples`` for the parent, of
    ``shared`` for each variant, ``batch`` at once, ``rows`` of them at most where they are in
    memory together. ``head`` is that of a metric on logits, 0 for one on hidden states;
    ``keeps_end`` where the parent's last hidden states are kept for later rounds.
    ``piece`` is read from disk at once, ``chunk`` compared, ``saved`` written.
    """

    weights: tuple[int, ...]
    working: tuple[int, ...]
    variants: tuple[int, ...]
    samples: int
    shared: int
    row: int
    batch: int
    rows: int
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
    def passes(self) -> tuple[Pass, ...]:
        """Those of the first round."""
        return first_round(
            samples=self.samples,
            shared=self.shared,
            variants=sum(self.variants),
            rows=self.rows,
            batch=self.batch,
        )

    @property
    def held(self) -> int:
        """Samples of which hidden states are held at most, in any round."""
        variants = sum(self.variants)
        later = min(self.rows, self.shared * (1 + variants)) if self.keeps_end else 0
        return max(later, *(each.rows(variants) for each in self.passes))

    @property
    def activations(self) -> list[int]:
        """Of all streams so far, at each block of the first pass."""
        first = self.passes[0]
        return [first.rows(streams) * self.row for streams in accumulate(self.variants)]

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

    Memory that no stream has reached yet is not resident, so each visit of the first pass has its
    own sum; later ones find all of it there.
    """
    phases = [
        {ACTIVATIONS: size} | visit
        for size, visit in zip(load.activations, _visits_on_cpu(load), strict=True)
    ]
    held = {ACTIVATIONS: load.held * load.row}
    if len(load.passes) > 1 or load.keeps_end:
        phases += [held | visit for visit in _visits_on_cpu(load)]
    last = held | load.end | heaps(load.chunk, load.piece)
    worst = _largest([*phases, last])
    return Peak(terms={"this process": process, **load.kept, **worst})


def on_gpu(load: ScoringLoad, process: int) -> tuple[Peak, Peak]:
    """(the peak on a GPU, that in CPU memory)."""
    computing = _largest([*load.visits, load.end])
    host = {"this process": process, "CUDA's libraries": CUDA_LIBRARIES}
    host |= {"compilers of kernels": COMPILERS, "I/O buffers": load.io}
    host |= heaps(0, load.piece) | {"a part of the streams while they are saved": load.saved}
    device = {**load.kept, ACTIVATIONS: load.held * load.row, **computing}
    return Peak(terms=device), Peak(terms=host)


def rows_that_fit(load: ScoringLoad, *, limit: int, free: int, process: int, gpu: bool) -> int:
    """Samples whose hidden states take at most ``limit`` bytes, and no more than ``free`` ones
    leave beside all else; less than 1 where not even that fits.
    """
    phases = [*load.visits, load.end]
    if not gpu:
        end = load.end | heaps(load.chunk, load.piece)
        phases = [{"this process": process} | phase for phase in [*_visits_on_cpu(load), end]]
    beside = sum(load.kept.values()) + max(sum(terms.values()) for terms in phases)
    return min(limit, int(free * (1 - HEADROOM)) - beside) // load.row


def _visits_on_cpu(load: ScoringLoad) -> list[dict[str, int]]:
    return [visit | heaps(visit["working set"], load.piece) for visit in load.visits]


def _largest(phases: list[dict[str, int]]) -> dict[str, int]:
    return max(phases, key=lambda terms: sum(terms.values()))
