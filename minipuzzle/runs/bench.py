"""Speed and memory of several models in turn: checkpoints, or folders with only a config.json
(random weights).
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from minipuzzle.arch import Architecture
from minipuzzle.bars import progress_bar
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.config import read_config
from minipuzzle.errors import UserError
from minipuzzle.generation.bench import Speed, measure
from minipuzzle.generation.result import BenchPlan, BenchResult, BenchRow
from minipuzzle.generation.runtime import Runtime
from minipuzzle.kernels import Kernels, choose
from minipuzzle.machine import available_bytes, free_gpu_bytes
from minipuzzle.memory import Peak
from minipuzzle.memory.cards import PLANNED
from minipuzzle.memory.inference import HEADROOM, inference_peak, largest_batch
from minipuzzle.model import HybridLM, fp8_model, load_model
from minipuzzle.runs.device import DTYPES, device_name, pick_device, pick_dtype
from minipuzzle.settings import Generation
from minipuzzle.units import bytes_

log = logging.getLogger(__name__)


def run_bench(
    paths: Sequence[Path],
    work: Generation | None,
    *,
    prompt: int,
    output: int,
    device: str,
    dtype: str,
    state: str,
    seconds: float,
    fp8_weights: bool = False,
) -> BenchResult:
    """Measure each model at ``work``, or where that is None at the largest batch that fits by the
    estimate.

    Raises: UserError for a model that does not fit the device.
    """
    where = pick_device(device)
    kernels = choose(where)
    runtime = _runtime(dtype, state, where, fast=kernels.name != "reference", fp8=fp8_weights)
    architectures = [read_config(path)[1] for path in paths]
    log.info(f"kernels: {kernels.describe(block for a in architectures for block in a.blocks)}")
    rows = []
    for path, name, architecture in zip(paths, names(paths), architectures, strict=True):
        gc.collect()
        if where.type == "cuda":
            torch.cuda.empty_cache()
        free = free_gpu_bytes(where) if where.type == "cuda" else available_bytes()
        load = work or Generation(prompt=prompt, output=output, batch=1)
        batch = load.batch if work else largest_batch(architecture, load, runtime, free)
        load = replace(load, batch=max(1, batch))
        peak = inference_peak(architecture, load, runtime)
        _check_fits(name, load, peak, free)
        log.info(
            f"{name}: batch {load.batch}, predicted peak {bytes_(peak.total)} of {bytes_(free)}"
            " free"
        )
        speed = _measure(path, name, architecture, load, runtime, where, kernels, seconds, peak)
        row = BenchRow(
            name=name,
            path=str(path),
            parameters=architecture.parameters,
            active=architecture.active_if_fewer,
            work=load,
            speed=speed,
            predicted=peak,
        )
        rows.append(row)
    return BenchResult(
        device=device_name(where),
        dtype=str(runtime.dtype).removeprefix("torch."),
        kernels=kernels.reason,
        weights="fp8" if fp8_weights else str(runtime.dtype).removeprefix("torch."),
        state_dtype=str(runtime.state_dtype).removeprefix("torch."),
        torch=torch.__version__,
        batch="the largest that fits" if work is None else work.batch,
        prompt=prompt,
        output=output,
        rows=tuple(rows),
    )


def plan_bench(
    paths: Sequence[Path], *, prompt: int, output: int, dtype: str, state: str
) -> list[BenchPlan]:
    """Predicted memory of one row and the largest batch on each card, for weights in ``dtype`` and
    in FP8. Runs nothing.
    """
    cuda = torch.device("cuda")
    rows = []
    for path, name in zip(paths, names(paths), strict=True):
        architecture = read_config(path)[1]
        for fp8 in (False, True):
            runtime = _runtime(dtype, state, cuda, fast=True, fp8=fp8)
            load = Generation(batch=1, prompt=prompt, output=output)
            batches = {
                size: largest_batch(architecture, load, runtime, card.memory)
                for size, card in PLANNED.items()
            }
            held = next(short for short, kind in DTYPES.items() if kind == runtime.dtype)
            rows.append(
                BenchPlan(
                    name=name,
                    weights="fp8" if fp8 else held,
                    peak=inference_peak(architecture, load, runtime),
                    batches=batches,
                )
            )
    return rows


def names(paths: Sequence[Path]) -> list[str]:
    """Short names of the folders; whole paths where two would be one."""
    short = [path.resolve().name for path in paths]
    return [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, paths, strict=True)
    ]


def _runtime(
    dtype: str, state: str, device: torch.device, *, fast: bool, fp8: bool = False
) -> Runtime:
    held = torch.float32 if state == "auto" else pick_dtype(state, device)
    return Runtime(dtype=pick_dtype(dtype, device), state_dtype=held, fast=fast, fp8_weights=fp8)


def _measure(
    path: Path,
    name: str,
    architecture: Architecture,
    work: Generation,
    runtime: Runtime,
    device: torch.device,
    kernels: Kernels,
    seconds: float,
    peak: Peak,
) -> Speed:
    try:
        checkpoint = Checkpoint.open(path) if any(path.glob("*.safetensors*")) else None
        if runtime.fp8_weights:
            model = fp8_model(
                architecture, checkpoint, device=device, dtype=runtime.dtype, kernels=kernels
            )
        elif checkpoint is not None:
            model = load_model(checkpoint, device=device, dtype=runtime.dtype, kernels=kernels)
        else:
            model = HybridLM(architecture, device=device, dtype=runtime.dtype, kernels=kernels)
        with progress_bar(
            f"bench: {name}", work.batch * (work.prompt + work.output), "tokens"
        ) as bar:
            return measure(
                model.eval(),
                work,
                state_dtype=runtime.state_dtype,
                tokens_at_once=runtime.tokens_at_once,
                seconds=seconds,
                progress=bar,
            )
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"{name} did not fit the device.",
            got=f"predicted {bytes_(peak.total)}; {str(error).split('. ')[0]}",
            allowed="what its memory holds",
            next="Lower bench.batch or bench.prompt.",
        ) from error


def _check_fits(name: str, work: Generation, peak: Peak, free: int) -> None:
    if peak.total > free:
        raise UserError(
            f"{name} does not fit the device at {work}.",
            got=str(peak),
            allowed=f"{bytes_(free)}, of which auto leaves {HEADROOM:.0%} free",
            next="Lower bench.batch, bench.prompt or bench.output.",
        )
