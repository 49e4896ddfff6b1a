"""A clock for models: steps of prefill and decoding timed on a device that others may share.

Every model has a short turn in each of many rounds, so that what drifts (clock speed, other
tenants' share of cache and memory) meets all alike; the median over the rounds counts. A model of
random weights serves: speed does not depend on them.
"""

from __future__ import annotations

import ctypes
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.kernels import Kernels
from minipuzzle.kernels.pointwise import replayed
from minipuzzle.machine import memory_of
from minipuzzle.model import HybridLM
from minipuzzle.model.cache import Cache
from minipuzzle.progress import SILENT, Progress
from minipuzzle.settings import Generation, Phase

PHASES: tuple[Phase, ...] = ("prefill", "decode")
ROUNDS = {"cuda": 1, "cpu": 40}
SECONDS = {"cuda": 0.5, "cpu": 0.05}
"""Of a turn. A shared CPU's speed changes within 50 ms: a decoding step's time and that of the
tenth after it correlate.
"""
LEAST_STEPS = {"cuda": 6, "cpu": 2}
MOST_STEPS = 60
WARM_UP = {"cuda": 3, "cpu": 0}
"""Steps before the first that is timed; that one does not count either."""
KEPT_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how to measure: device, dtype of weights and activations, kernels; rounds (0: what
    the device needs).
    """

    device: torch.device
    dtype: torch.dtype
    kernels: Kernels
    rounds: int = 0

    @property
    def name(self) -> str:
        """The device's name, with the threads that a CPU may use."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return (
            f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
        )

    @property
    def turns(self) -> int:
        """How often everything is timed."""
        return self.rounds or ROUNDS[self.device.type]

    def model(self, architecture: Architecture) -> HybridLM:
        """A model of random weights."""
        return HybridLM(
            architecture, device=self.device, dtype=self.dtype, kernels=self.kernels
        ).eval()


def time_in_turns(
    architectures: Sequence[Architecture],
    works: Sequence[Generation],
    machine: Machine,
    *,
    marked: int = 0,
    phases: Sequence[Phase] = PHASES,
    progress: Progress = SILENT,
) -> list[dict[tuple[Generation, Phase], list[float]]]:
    """Median ms of a prefill and of a decoding step (where the workload has output) of each model.

    The first ``marked`` models are timed from block to block: [up to the first block, each block,
    from the last one on]. The others are timed whole, nothing measured in between: [ms].
    ``progress`` is told of models.

    Raises: UserError for a workload that does not fit the device.
    """
    taken: list[dict[tuple[Generation, Phase], list[list[float]]]] = [{} for _ in architectures]
    for _ in range(machine.turns):
        for number, (architecture, times) in enumerate(zip(architectures, taken, strict=True)):
            model = machine.model(architecture)
            for work in works:
                for phase in [p for p in phases if p == "prefill" or work.output]:
                    times.setdefault((work, phase), []).append(
                        _turn(model, phase, work, number < marked)
                    )
            del model
            progress.advance()
    return [{key: _medians(rows) for key, rows in times.items()} for times in taken]


def step_ms(
    times: dict[tuple[Generation, Phase], list[float]], phase: Phase, work: Generation
) -> float:
    """A whole model's ms of a phase, of "total" too: the prefill and all steps of decoding."""
    if phase == "total":
        return step_ms(times, "prefill", work) + (
            work.output * step_ms(times, "decode", work) if work.output else 0.0
        )
    return times[work, phase][0]


@torch.no_grad()
def _turn(model: HybridLM, phase: Phase, work: Generation, inside: bool) -> list[float]:
    """Median ms of a turn between the start, each block (where ``inside``) and the end of a step.

    Decoding on CUDA is replayed as one CUDA graph, as servers do: launched one by one, its kernels
    wait for Python.
    """
    device = model.embeddings.weight.device
    if device.type == "cpu":
        _keep_freed_memory()
    try:
        step = _step(model, phase, work)
        for _ in range(WARM_UP[device.type]):
            step(lambda: None)
        clock = _Clock(device, graph=device.type == "cuda" and phase == "decode")

        def once() -> None:
            clock.start()
            step(clock.mark if inside else lambda: None)
            if not inside:
                clock.mark()

        if clock.graph is not None:
            torch.cuda.synchronize()
            with torch.cuda.graph(clock.graph):
                once()
            rows = _repeat(clock.replay, device)
        else:

            def timed() -> list[float]:
                once()
                return clock.read()

            rows = _repeat(timed, device)
    except torch.cuda.OutOfMemoryError as reason:
        raise UserError(
            "The workload does not fit the device.",
            got=f"{phase} of {work}: {str(reason).split('. ')[0]}",
            allowed=f"what {memory_of(device) / 2**30:.0f} GiB hold",
            next="Profile a smaller batch or a shorter prompt.",
        ) from reason
    return _medians(rows[1:])


def _medians(rows: Sequence[Sequence[float]]) -> list[float]:
    """The columns' medians, scaled to add up to the median of the rows' sums.

    A disturbance hits a few blocks of a step but the whole step always: medians of 15 parts add up
    to 5 % less than the median of their sums on a busy machine.
    """
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    scale = statistics.median(map(sum, rows)) / sum(middle)
    return [scale * ms for ms in middle]


class _Clock:
    """Times between marks: events on CUDA (inside a graph, external ones); on a CPU the thread's
    own time where it works alone, without the time that the system gave to others, and the wall
    clock where several threads work.
    """

    def __init__(self, device: torch.device, graph: bool) -> None:
        self.cuda = device.type == "cuda"
        self.graph = torch.cuda.CUDAGraph() if graph else None
        self.now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        self.marks: list[Any] = []

    def start(self) -> None:
        if self.cuda and self.graph is None:
            torch.cuda.synchronize()
        self.marks = []
        self.mark()

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True, external=self.graph is not None)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(self.now())

    def replay(self) -> list[float]:
        """Run the captured step, then ``read``."""
        assert self.graph is not None
        self.graph.replay()
        return self.read()

    def read(self) -> list[float]:
        """Milliseconds between marks."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        if self.cuda:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) for a, b in pairs]
        return [1e3 * (b - a) for a, b in pairs]


def _repeat(once: Callable[[], Any], device: torch.device) -> list[Any]:
    started = time.perf_counter()
    rows: list[Any] = []
    while len(rows) < LEAST_STEPS[device.type] or (
        len(rows) < MOST_STEPS and time.perf_counter() - started < SECONDS[device.type]
    ):
        rows.append(once())
    return rows


def _step(model: HybridLM, phase: Phase, work: Generation) -> Callable[[Callable[[], None]], None]:
    """One prefill or decoding step that calls its argument after the embedding and after each
    block.

    Decoding is what ``minipuzzle.generation`` runs: each row at its own position, on CUDA with the
    kernels of its graph.
    """
    device = model.embeddings.weight.device
    length = work.prompt if phase == "prefill" else 1
    tokens = torch.randint(0, model.architecture.vocab_size, (work.batch, length), device=device)
    cache = model.new_cache(work.batch, work.prompt if phase == "prefill" else work.context + 1)
    if phase == "decode":
        cache.decode_rows([work.context] * work.batch, device)

    def step(mark: Callable[[], None]) -> None:
        cache.length = 0 if phase == "prefill" else work.context
        with replayed() if phase == "decode" else nullcontext():
            _forward(model, tokens, cache, mark)

    return step


def _forward(model: HybridLM, tokens: Tensor, cache: Cache, mark: Callable[[], None]) -> None:
    h = model.embed(tokens)
    mark()
    for i in range(len(model.blocks)):
        h = model.run_blocks(h, None, i, i + 1, cache)
        mark()
    last = model.final_norm(h[:, -1])
    torch.argmax(last @ model.head_weight.t(), -1)
    mark()


def _keep_freed_memory() -> None:
    """Have the C library reuse freed memory up to KEPT_BYTES a tensor.

    By default glibc hands back what is freed above a threshold that moves with what ran before:
    13,000 page faults in a prefill of 512 tokens of the embedded teacher, 18 % of its time, or more
    or fewer in a model of other sizes.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(mmap_threshold, KEPT_BYTES)
        library.mallopt(trim_threshold, 2**30)
