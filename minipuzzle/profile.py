"""Times of blocks, measured inside a running model, so that their sum is the model's time.

Each block is timed between its neighbours, where caches and launches are as in use; a model of random weights serves,
because speed does not depend on them. On CUDA the clock is CUDA events, elsewhere time.perf_counter.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minipuzzle.arch import Architecture, Attention, Block, FeedForward, Mamba2
from minipuzzle.budget import Generation, Phase
from minipuzzle.cost.latency import LatencyTable, describe, model_ms, surroundings
from minipuzzle.errors import UserError
from minipuzzle.kernels import Kernels
from minipuzzle.kernels.pointwise import replayed
from minipuzzle.model import HybridLM
from minipuzzle.model.cache import Cache

PHASES: tuple[Phase, ...] = ("prefill", "decode")
SECONDS = 0.5
REPEATS = (6, 60)
ROUNDS = {"cuda": 1, "cpu": 3}
"""Times over everything, the least of which counts: a CPU is shared with others, who can only slow a round down."""
MEMORY_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how to measure: device, dtype of weights and activations, kernels."""

    device: torch.device
    dtype: torch.dtype
    kernels: Kernels

    @property
    def name(self) -> str:
        """The device's name, with the threads that a CPU may use."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"

    @property
    def rounds(self) -> int:
        """How often everything is timed."""
        return ROUNDS[self.device.type]

    def model(self, architecture: Architecture) -> HybridLM:
        """A model of random weights."""
        return HybridLM(architecture, device=self.device, dtype=self.dtype, kernels=self.kernels).eval()


def profile(
    parent: Architecture, works: Sequence[Generation], machine: Machine, *, widths: int, phases: Sequence[Phase] = PHASES,
    advance: Callable[[int], None] = lambda chains: None,
) -> LatencyTable:  # fmt: skip
    """A table of every distinct block of ``parent`` at ``widths`` sizes from whole to an eighth, for each workload.

    Raises: UserError for a workload that does not fit the device.
    """
    seen: dict[tuple[str, int, int, str], list[float]] = {}
    for rung in [rung for _ in range(machine.rounds) for rung in range(widths)]:
        model = machine.model(chain(parent, rung / max(1, widths - 1), machine))
        for work in works:
            for phase in [phase for phase in _phases(work) if phase in phases]:
                tokens = work.prompt if phase == "prefill" else work.context
                blocks, around = time_blocks(model, phase, work)
                by_shape: dict[str, list[float]] = {}
                for block, ms in zip(model.architecture.blocks, blocks, strict=True):
                    by_shape.setdefault(describe(block), []).append(ms)
                for text, values in by_shape.items():
                    seen.setdefault((phase, work.batch, tokens, text), []).append(statistics.fmean(values))
                seen.setdefault((phase, work.batch, tokens, surroundings(parent)), []).append(around)
        del model
        advance(1)
    entries = {key: min(values) for key, values in seen.items()}
    meta = {
        "device": machine.name, "dtype": str(machine.dtype).removeprefix("torch."), "kernels": machine.kernels.reason,
        "torch": torch.__version__, "date": datetime.date.today().isoformat(), "workloads": [str(w) for w in works],
    }  # fmt: skip
    return LatencyTable(meta=meta, entries=entries)


def chain(parent: Architecture, shrink: float, machine: Machine) -> Architecture:
    """The model to time blocks in: the parent with every axis ``shrink`` of the way down to an eighth.

    A parent too large for the device is stood for by one block of each shape.
    """
    blocks = list(parent.blocks)
    if parent.parameters * machine.dtype.itemsize > MEMORY_SHARE * _memory(machine.device):
        blocks = list(dict.fromkeys(blocks))
    return replace(parent, blocks=tuple(_shrunk(block, shrink) for block in blocks))


def time_blocks(model: HybridLM, phase: Phase, work: Generation) -> tuple[list[float], float]:
    """(median ms of each block, ms of everything around them) for one prefill or one decoding step."""
    columns = _times(model, phase, work, inside=True)
    return columns[1:-1], columns[0] + columns[-1]


def time_model(model: HybridLM, phase: Phase, work: Generation) -> float:
    """Median ms of a whole prefill or decoding step, nothing measured in between."""
    return _times(model, phase, work, inside=False)[0]


@torch.no_grad()
def _times(model: HybridLM, phase: Phase, work: Generation, inside: bool) -> list[float]:
    """Median ms between the start, each block (where ``inside``) and the end of a step.

    Decoding on CUDA is replayed as one CUDA graph, as servers do: launched one by one, its kernels wait for Python.
    """
    device = model.embeddings.weight.device
    try:
        step = _step(model, phase, work)
        for _ in range(3):
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
            rows = _repeat(clock.replay)
        else:
            def timed() -> list[float]:
                once()
                return clock.read()

            rows = _repeat(timed)
    except torch.cuda.OutOfMemoryError as reason:
        raise UserError(
            "The workload does not fit the device.", got=f"{phase} of {work}: {str(reason).split('. ')[0]}",
            allowed=f"what {_memory(device) / 2**30:.0f} GiB hold", next="Profile a smaller batch or a shorter prompt.",
        ) from reason  # fmt: skip
    return [statistics.median(column) for column in zip(*rows[1:], strict=True)]


def additivity(table: LatencyTable, architectures: Sequence[Architecture], works: Sequence[Generation], machine: Machine,
               advance: Callable[[int], None] = lambda models: None) -> list[dict[str, Any]]:  # fmt: skip
    """Sum of blocks against the whole model, measured: a row for each architecture, workload and phase."""
    measured: dict[tuple[int, Generation, Phase], list[float]] = {}
    for number in [n for _ in range(machine.rounds) for n in range(len(architectures))]:
        model = machine.model(architectures[number])
        for work in works:
            for phase in _phases(work):
                measured.setdefault((number, work, phase), []).append(time_model(model, phase, work))
        del model
        advance(1)
    rows = []
    for (number, work, phase), values in measured.items():
        architecture, took = architectures[number], min(values)
        predicted = model_ms(table, architecture, phase, work)
        rows.append({"pattern": architecture.pattern, "parameters": architecture.parameters, "phase": phase,
                     "workload": str(work), "predicted_ms": predicted, "measured_ms": took,
                     "error": predicted / took - 1})  # fmt: skip
    return rows


def _phases(work: Generation) -> tuple[Phase, ...]:
    return PHASES if work.output else PHASES[:1]


class _Clock:
    """Times between marks: events on CUDA (inside a graph, external ones), perf_counter elsewhere."""

    def __init__(self, device: torch.device, graph: bool) -> None:
        self.cuda = device.type == "cuda"
        self.graph = torch.cuda.CUDAGraph() if graph else None
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
            self.marks.append(time.perf_counter())

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


def _repeat(once: Callable[[], Any]) -> list[Any]:
    started = time.perf_counter()
    rows: list[Any] = []
    while len(rows) < REPEATS[0] or (len(rows) < REPEATS[1] and time.perf_counter() - started < SECONDS):
        rows.append(once())
    return rows


def _step(model: HybridLM, phase: Phase, work: Generation) -> Callable[[Callable[[], None]], None]:
    """One prefill or decoding step that calls its argument after the embedding and after each block.

    Decoding is what ``minipuzzle.generation`` runs: each row at its own position, on CUDA with the kernels of its graph.
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


def _shrunk(block: Block, shrink: float) -> Block:
    keep = 1 - 0.875 * shrink
    if isinstance(block, FeedForward):
        step = 64 if block.intermediate >= 512 else 8
        return replace(block, intermediate=max(step, round(block.intermediate * keep / step) * step))
    if isinstance(block, Mamba2):
        each = block.heads // block.groups
        return replace(block, heads=max(1, round(each * keep)) * block.groups)
    if isinstance(block, Attention):
        legal = [k for k in range(1, block.kv_heads + 1) if block.kv_heads % k == 0]
        kv = min(legal, key=lambda k: abs(k - block.kv_heads * keep))
        return replace(block, kv_heads=kv, q_heads=kv * (block.q_heads // block.kv_heads))
    return block


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
