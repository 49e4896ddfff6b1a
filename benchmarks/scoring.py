r"""Streamed scoring against the naive loop, and at 56B sizes: memory, time and FLOP/s. Results:
docs/results/scoring.md.

    # embedded teacher: block-forwards and seconds of ours and the loop
    python benchmarks/scoring.py
    # random BF16 weights
    python benchmarks/scoring.py --config docs/examples/nemotron-h-56b --layers 4 --no-curves
    python benchmarks/scoring.py --config docs/examples/nemotron-h-56b --layers 40 \
        --device cuda --folder /disk --out x.json

With --config the first run of --layers blocks that holds every kind is written with random weights
to a folder that is deleted afterwards (embedding and head of the 56B take 4 GiB of it, a block
about 0.9, and the state of a run as much as its activations). A child process writes, so that the
memory measured is that of scoring alone.
"""

from __future__ import annotations

import argparse
import json
import math
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

from minipuzzle import embedded
from minipuzzle.arch import Architecture
from minipuzzle.arch.architecture import Tensor as ArchTensor
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint, read_config, write_checkpoint
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.data import Tokenizer, load_blocks, pack
from minipuzzle.families import nemotron_h
from minipuzzle.importance import score, work
from minipuzzle.importance.curves import variants
from minipuzzle.importance.peak import ScoringPeak, plan_peak
from minipuzzle.kinds import Block
from minipuzzle.messages import print_messages
from minipuzzle.model import load_model
from minipuzzle.model.prefetch import BlockReader
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings

GIB = 1 << 30
SHARD_BYTES = 2_000_000_000
PEAK_SIZE = 8192


def main() -> None:
    """Run the comparison, or with --config the large slice; print, and write JSON to --out."""
    print_messages()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="folder with the config.json of a large model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--block-samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--no-curves", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder", type=Path, help="where the random checkpoint and the run's state go for a while"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    result = compare(device) if options.config is None else large(options, device)
    result |= {
        "device": device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=1, default=str))
    if options.out is not None:
        write_json(options.out, result)


def compare(device: torch.device) -> dict[str, Any]:
    """Ours and the naive loop (take each block out, run the whole model) on the same 16 x 256
    tokens, alternately.
    """
    parent = Checkpoint.open(embedded.teacher_path())
    blocks = load_blocks(
        embedded.text_path("calibration"), Tokenizer.load(parent.path), block_length=256
    )
    settings = ScoreSettings(samples=16, block_samples=16, curves=False)
    seconds: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, list[float]] = defaultdict(list)
    counts = {"naive": 0, "ours": 0}
    errors: dict[str, np.ndarray] = {}
    for _ in range(5):
        for name in ("ours", "naive"):
            started, used = time.perf_counter(), time.process_time()
            if name == "naive":
                errors[name], counts[name] = naive(parent, blocks.take(16, seed=0).tokens, device)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    errors[name] = score(
                        parent, blocks, settings, device=device, partial=Path(folder)
                    ).blocks
            seconds[name].append(time.perf_counter() - started)
            busy[name].append(time.process_time() - used)
    counts["ours"] = work(settings, parent.architecture, len(blocks)) // 16
    best, least = (
        {name: min(values) for name, values in times.items()} for times in (seconds, busy)
    )
    return {
        "block_forwards_a_sample": counts,
        "count_ratio": counts["naive"] / counts["ours"],
        "seconds": dict(seconds),
        "best_seconds": best,
        "time_ratio": best["naive"] / best["ours"],
        "processor_seconds": dict(busy),
        "processor_time_ratio": least["naive"] / least["ours"],
        "largest_relative_difference": float(np.max(np.abs(errors["ours"] / errors["naive"] - 1))),
    }


@torch.no_grad()
def naive(parent: Checkpoint, tokens: np.ndarray, device: torch.device) -> tuple[np.ndarray, int]:
    """(removal errors, block-forwards a sample) of the loop that runs the whole model once for each
    block.
    """
    model = load_model(parent, device=device).eval()
    count, forwards = len(model.blocks), 0
    totals = np.zeros(count)
    batches = torch.from_numpy(tokens.astype(np.int64)).to(device).split(8)
    whole = [model.hidden_states(batch) for batch in batches]
    forwards += count
    for removed in range(count):
        for batch, full in zip(batches, whole, strict=True):
            state = model.run_blocks(
                model.run_blocks(model.embed(batch), None, 0, removed), None, removed + 1, count
            )
            totals[removed] += (model.final_norm(state) - full).square().mean(
                dtype=torch.float64
            ).item() * len(batch)
        forwards += count - 1
    return totals / len(tokens), forwards


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
    """Score a checkpoint and say what it took."""
    settings = ScoreSettings(
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
        device=device,
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
    host = (peak.host or peak.device).total
    result = {
        "host_printed_gib": host / GIB,
        "host_measured_gib": resident / GIB,
        "host_ratio": resident / host,
        "terms": peak.device.terms,
        "host_terms": {} if peak.host is None else peak.host.terms,
    }
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device)
        result |= {
            "gpu_printed_gib": peak.device.total / GIB,
            "gpu_measured_gib": used / GIB,
            "gpu_ratio": used / peak.device.total,
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


def slice_of(whole: Architecture, layers: int) -> Architecture:
    """The first ``layers`` neighbouring blocks that hold every kind of the model (or its first
    ones, if none do).
    """
    kinds = set(whole.pattern)
    starts = range(len(whole.blocks) - layers + 1)
    first = next((s for s in starts if set(whole.pattern[s : s + layers]) == kinds), 0)
    return replace(whole, blocks=whole.blocks[first : first + layers])


def write(architecture: Architecture, path: Path, device: str) -> None:
    """A checkpoint with random BF16 weights, a tensor at a time."""
    generator = torch.Generator(device).manual_seed(0)

    def tensor(name: str) -> torch.Tensor:
        return random_weight(by_name[name], len(architecture.blocks), generator).cpu()

    by_name = {tensor.name: tensor for tensor in architecture.tensors()}
    write_checkpoint(
        path,
        architecture,
        tensor,
        source=None,
        config=nemotron_h.config(architecture, {}),
        shard_bytes=SHARD_BYTES,
    )


def random_weight(tensor: ArchTensor, depth: int, generator: torch.Generator) -> torch.Tensor:
    """Values as ``init_model`` draws them, on the generator's device."""
    value = torch.empty(tensor.shape, dtype=torch.bfloat16, device=generator.device)
    name = tensor.name
    if name.endswith(("norm.weight", ".D")):
        return value.fill_(1.0)
    if name.endswith("A_log"):
        return value.uniform_(1.0, 16.0, generator=generator).log_()
    if name.endswith("dt_bias"):
        return value.uniform_(
            -6.9, -2.3, generator=generator
        )  # softplus(dt_bias) between 0.001 and 0.1
    if name.endswith("bias"):
        return value.zero_()
    residual = name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight"))
    std = 0.5 if ".conv." in name else 0.02 / math.sqrt(depth) if residual else 0.02
    return value.normal_(0.0, std, generator=generator)


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


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU"
    )


if __name__ == "__main__":
    main()
