"""Scoring of a large model, for benchmarks/scoring.py: its memory and time beside the machine's."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, median_low
from typing import Any

import numpy as np
import torch
from random_checkpoint import slice_of, write

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.data import pack
from minipuzzle.importance import score
from minipuzzle.importance.curves import variants
from minipuzzle.importance.peak import ScoringPeak, plan_peak
from minipuzzle.kinds import Block
from minipuzzle.model.prefetch import BlockReader
from minipuzzle.ranks import alone
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings

GIB = 1 << 30


PEAK_SIZE = 8192


def large(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Write a slice of the model with random weights, score it, and compare what was printed with
    what was measured.
    """
    whole = read_config(options.config)[1]
    architecture = slice_of(whole, options.layers)
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="scoring-"))
    try:
        started = time.perf_counter()
        writer = multiprocessing.get_context("spawn").Process(
            target=write, args=(architecture, folder / "parent", str(device))
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit("the random checkpoint could not be written")
        print(
            f"{architecture.pattern}: {architecture.parameters:,} parameters written in "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )
        return measured(
            options, device, whole, Checkpoint.open(folder / "parent"), folder / "state"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measured(
    options: argparse.Namespace,
    device: torch.device,
    whole: Architecture,
    parent: Checkpoint,
    state: Path,
) -> dict[str, Any]:
    """Score a checkpoint in one pass, so that each block is timed once, and say what it took."""
    settings = ScoreSettings(
        activations=1e6,
        samples=options.samples,
        block_samples=options.block_samples,
        batch=options.batch,
        curves=not options.no_curves,
    )
    count = max(options.samples, options.block_samples)
    tokens = np.random.default_rng(0).integers(
        0, whole.vocab_size, count * options.length, dtype=np.uint32
    )
    text = pack(
        [tokens],
        block_length=options.length,
        vocab_size=whole.vocab_size,
        seed=0,
        fingerprint="random",
        text_bytes=1,
    )
    fast = BlockReader(parent, device=device, dtype=torch.bfloat16).kernels.name == "mamba-ssm"
    peak = plan_peak(
        parent,
        settings,
        samples=count,
        shared=options.block_samples,
        length=options.length,
        group=alone(device),
        fast=fast,
    )
    timed: list[tuple[int, float, float]] = []
    usual = BlockReader.blocks
    BlockReader.blocks = lambda self, indices: clocked(usual(self, indices), timed, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    scores = score(parent, text, settings, device=device, partial=state)
    seconds = time.perf_counter() - started
    check(scores, parent.architecture, settings)
    result = {
        "pattern": parent.architecture.pattern,
        "parameters": parent.architecture.parameters,
        "settings": vars(options),
        "kernels": "mamba-ssm" if fast else "reference",
        "dtype": str(peak.dtype),
        "seconds": seconds,
        **memory(peak, device),
    }
    matmul = matmul_peak(device)[peak.dtype]  # after the memory was read: it takes some of its own
    return result | speed(timed, parent.architecture, whole, settings, matmul, options.length)


def memory(peak: ScoringPeak, device: torch.device) -> dict[str, Any]:
    """GiB printed and measured, on the CPU and on the GPU."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    computing, cpu = peak.needs[0].peak, peak.needs[-1].peak
    host = cpu.total
    result = {
        "host_printed_gib": host / GIB,
        "host_measured_gib": resident / GIB,
        "host_ratio": resident / host,
        "terms": computing.terms,
        "host_terms": cpu.terms if len(peak.needs) > 1 else {},
    }
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device)
        result |= {
            "gpu_printed_gib": computing.total / GIB,
            "gpu_measured_gib": used / GIB,
            "gpu_ratio": used / computing.total,
        }
    return result


def speed(
    timed: list[tuple[int, float, float]],
    slice_: Architecture,
    whole: Architecture,
    settings: ScoreSettings,
    peak: float,
    length: int,
) -> dict[str, Any]:
    """Seconds a sample by kind of block, FLOP/s against the measured matmul peak, and the time for
    the whole model.

    The first block of a kind pays for tuning its kernels and the last for the comparison at the
    end: a kind's time is the median of its blocks (the lower of two). ``once_s`` is what the run
    took beyond that.
    """
    rows = passes(slice_, settings)
    kinds = [slice_.blocks[index].kind for index, _, _ in timed]
    a_sample: dict[str, list[float]] = defaultdict(list)
    for kind, (_, _, spent), passed in zip(kinds, timed, rows, strict=True):
        a_sample[kind].append(spent / passed)
    by_kind = {kind: median_low(values) for kind, values in a_sample.items()}
    operations = sum(
        passed * length * flops(slice_.blocks[i], length)
        for (i, _, _), passed in zip(timed, rows, strict=True)
    )
    computing = sum(by_kind[kind] * passed for kind, passed in zip(kinds, rows, strict=True))
    waited = [wait for _, wait, _ in timed[1:]]
    reading = mean(waited) if waited else 0.0
    return {
        "blocks": [
            {"block": i, "kind": kind, "waited_s": w, "seconds": s, "samples": r}
            for kind, (i, w, s), r in zip(kinds, timed, rows, strict=True)
        ],
        "seconds_a_sample_and_block": by_kind,
        "waiting_for_a_block_s": reading,
        "computing_s": computing,
        "once_s": sum(s for _, _, s in timed) - computing,
        "flops_per_s": operations / computing,
        "matmul_peak_flops_per_s": peak,
        "fraction_of_peak": operations / computing / peak,
        "extrapolated_hours": extrapolated(whole, settings, by_kind, reading),
    }


def extrapolated(
    whole: Architecture, settings: ScoreSettings, by_kind: dict[str, float], reading: float
) -> dict[str, float]:
    """Hours for all blocks of the model: widths alone, with removals, with damage curves."""
    kinds = [block.kind for block in whole.blocks]
    waits = reading * len(kinds)

    def hours(rows: list[int]) -> float:
        return (
            waits + sum(by_kind[kind] * passed for kind, passed in zip(kinds, rows, strict=True))
        ) / 3600

    return {
        "widths": hours([settings.samples] * len(kinds)),
        "widths and removals": hours(passes(whole, replace(settings, curves=False))),
        "widths, removals and curves": hours(passes(whole, replace(settings, curves=True))),
    }


def passes(architecture: Architecture, settings: ScoreSettings) -> list[int]:
    """Samples that pass each block: the parent's, those of variants begun before, and of its own
    narrow forms.
    """
    begun, result = 0, []
    for i in range(len(architecture.blocks)):
        narrow = len(variants(architecture, i, settings.curves)) - 1
        result.append(
            max(settings.samples, settings.block_samples)
            + settings.block_samples * (begun + narrow)
        )
        begun += 1 + narrow
    return result


def flops(block: Block, length: int) -> float:
    """Operations of a block for one token of a sequence; attention over half the sequence on
    average.
    """
    alone = Architecture(vocab_size=0, hidden=block.hidden, blocks=(block,))
    return flops_per_token(alone, (length + 1) // 2).total


def clocked(
    blocks: Iterator[tuple[int, Any]], timed: list[tuple[int, float, float]], device: torch.device
) -> Iterator[tuple[int, Any]]:
    """The same blocks; appends (index, seconds waited for it, seconds until the next was asked
    for).
    """
    asked = time.perf_counter()
    for index, module in blocks:
        ready = time.perf_counter()
        yield index, module
        if device.type == "cuda":
            torch.cuda.synchronize()
        timed.append((index, ready - asked, time.perf_counter() - ready))
        asked = time.perf_counter()


def check(scores: Scores, architecture: Architecture, settings: ScoreSettings) -> None:
    """Every axis was scored, with finite numbers above zero."""
    arrays = [
        scores.blocks,
        scores.hidden,
        *(values for found in scores.widths.values() for values in found.values()),
        *(e for axes in scores.curves.values() for _, e in axes.values()),
    ]
    assert all(a is not None and np.isfinite(a).all() and (a > 0).all() for a in arrays)
    assert sum(map(len, scores.widths.values())) == len(architecture.blocks)
    assert bool(scores.curves) == settings.curves


def matmul_peak(device: torch.device) -> dict[torch.dtype, float]:
    """FLOP/s of the best of five products [2048, 8192] x [8192, 8192], in FP32 and BF16."""
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(2048, PEAK_SIZE, device=device).to(dtype)
        b = torch.randn(PEAK_SIZE, PEAK_SIZE, device=device).to(dtype)
        seconds = []
        for _ in range(6):
            started = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        best[dtype] = 2 * 2048 * PEAK_SIZE**2 / min(seconds[1:])
    return best
