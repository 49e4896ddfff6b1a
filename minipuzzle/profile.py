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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minipuzzle.arch import Architecture, Attention, Block, FeedForward, Mamba2
from minipuzzle.budget import Generation, Phase
from minipuzzle.cost.latency import LatencyTable, describe, model_ms, surroundings
from minipuzzle.kernels import Kernels
from minipuzzle.model import HybridLM
from minipuzzle.model.cache import Cache

PHASES: tuple[Phase, ...] = ("prefill", "decode")
SECONDS = 1.5
REPEATS = (5, 60)
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

    def model(self, architecture: Architecture) -> HybridLM:
        """A model of random weights."""
        return HybridLM(architecture, device=self.device, dtype=self.dtype, kernels=self.kernels).eval()


def profile(
    parent: Architecture, works: Sequence[Generation], machine: Machine, *, widths: int,
    advance: Callable[[int], None] = lambda chains: None,
) -> LatencyTable:  # fmt: skip
    """A table of every distinct block of ``parent`` at ``widths`` sizes from whole to an eighth, for each workload."""
    entries: dict[tuple[str, int, int, str], float] = {}
    for rung in range(widths):
        model = machine.model(chain(parent, rung / max(1, widths - 1), machine))
        for work in works:
            for phase in PHASES:
                if phase == "decode" and work.output == 0:
                    continue
                tokens = work.prompt if phase == "prefill" else work.context
                blocks, around = time_blocks(model, phase, work)
                by_shape: dict[str, list[float]] = {}
                for block, ms in zip(model.architecture.blocks, blocks, strict=True):
                    by_shape.setdefault(describe(block), []).append(ms)
                for text, values in by_shape.items():
                    entries[phase, work.batch, tokens, text] = statistics.fmean(values)
                entries.setdefault((phase, work.batch, tokens, surroundings(parent)), around)
        del model
        advance(1)
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


@torch.no_grad()
def time_blocks(model: HybridLM, phase: Phase, work: Generation) -> tuple[list[float], float]:
    """(median ms of each block, ms of everything around them) for one prefill or one decoding step."""
    step = _step(model, phase, work)
    clock = _Clock(model.embeddings.weight.device)

    def once() -> list[float]:
        clock.start()
        step(clock.mark)
        return clock.read()

    for _ in range(3):
        once()
    rows = _repeat(once)
    columns = [statistics.median(column) for column in zip(*rows, strict=True)]
    return columns[1:-1], columns[0] + columns[-1]


@torch.no_grad()
def time_model(model: HybridLM, phase: Phase, work: Generation) -> float:
    """Median ms of a whole prefill or decoding step, nothing measured in between."""
    step = _step(model, phase, work)
    clock = _Clock(model.embeddings.weight.device)

    def once() -> float:
        clock.start()
        step(lambda: None)
        clock.mark()
        return clock.read()[0]

    for _ in range(3):
        once()
    return statistics.median(_repeat(once))


def additivity(table: LatencyTable, architectures: Sequence[Architecture], works: Sequence[Generation], machine: Machine,
               advance: Callable[[int], None] = lambda models: None) -> list[dict[str, Any]]:  # fmt: skip
    """Sum of blocks against the whole model, measured: a row for each architecture, workload and phase."""
    rows = []
    for architecture in architectures:
        model = machine.model(architecture)
        for work in works:
            for phase in PHASES:
                if phase == "decode" and work.output == 0:
                    continue
                predicted, measured = model_ms(table, architecture, phase, work), time_model(model, phase, work)
                rows.append({"pattern": architecture.pattern, "parameters": architecture.parameters, "phase": phase,
                             "workload": str(work), "predicted_ms": predicted, "measured_ms": measured,
                             "error": predicted / measured - 1})  # fmt: skip
        del model
        advance(1)
    return rows


class _Clock:
    """Times between marks: events on CUDA, perf_counter elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[Any] = []

    def start(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self.marks = []
        self.mark()

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

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
    """One prefill or decoding step that calls its argument after the embedding and after each block."""
    device = model.embeddings.weight.device
    length = work.prompt if phase == "prefill" else 1
    tokens = torch.randint(0, model.architecture.vocab_size, (work.batch, length), device=device)
    cache = model.new_cache(work.batch, work.prompt if phase == "prefill" else work.context + 1)

    def step(mark: Callable[[], None]) -> None:
        cache.length = 0 if phase == "prefill" else work.context
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
