"""Sequences of 32k and 128k tokens on one GPU, and divided between two: equal losses, tokens a
second, memory.

    python studies/gpu/long_context.py --out rows.json             # on two GPUs: about 8 minutes
    python studies/gpu/long_context.py --parts 1                   # on one: what a card holds
    python studies/gpu/long_context.py --tiny --device cpu --lengths 128 256     # rehearsal, gloo

A teacher of 1.2 B and a student of 1.0 B parameters (those of benchmarks/distill_speed.py), random
weights and tokens, a block a step, BF16, FP32 masters, blocks recomputed. Each row has processes of
its own; those that ``--out`` has already are kept. NVLink multicast stays off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _shapes import one_billion
from distill_trainers import our_models
from steps import timed_steps

from minipuzzle.artifacts import write_json
from minipuzzle.data import TokenBlocks
from minipuzzle.ranks import ranks
from minipuzzle.settings import Training
from minipuzzle.training import distillation
from minipuzzle.training.captured import backward_of
from minipuzzle.training.optimizers import make_optimizer
from minipuzzle.training.parallel import context_parallel, shard
from minipuzzle.training.prepare import division_of, prepare, step_peak

WARM = 2
ALLOWED = 1e-3
"""Of the losses of a step in BF16, as a share."""


def main() -> None:
    """Each row in processes of its own; a table, and exit code 1 where losses differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[32_768, 131_072])
    parser.add_argument("--parts", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        row(options.row, options)
        return
    there = options.out and options.out.exists()
    rows = json.loads(options.out.read_text())["rows"] if there else []
    for length in options.lengths:
        for parts in options.parts:
            if any(known["length"] == length and known["parts"] == parts for known in rows):
                continue
            rows.append(launched(length, parts, options))
            print(line(rows[-1]), flush=True)
            if options.out:
                write_json(options.out, {"rows": rows})
    sys.exit(0 if all(list(map(partial(agree, rows), options.lengths))) else 1)


def launched(length: int, parts: int, options: argparse.Namespace) -> dict[str, Any]:
    """A row, or what its processes said last."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(parts)]
    words = [
        *(launch if parts > 1 else []),
        __file__,
        "--row",
        str(length),
        "--steps",
        str(options.steps),
    ]
    words += ["--device", options.device, *["--tiny"] * options.tiny]
    environment = {**os.environ, "NCCL_NVLS_ENABLE": "0"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line or "error" in line]
        return {"length": length, "parts": parts, "error": "\n".join(said[:5])[:1500]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def row(length: int, options: argparse.Namespace) -> None:
    """Train in this process's part of the sequences; the first process prints what it took."""
    with ranks(torch.device(options.device)) as group:
        cuda = group.device.type == "cuda"
        shapes = one_billion(options.tiny)
        torch.manual_seed(0)
        teacher, student = our_models(*shapes, options.device)
        if group.world > 1:
            shard(teacher, group)
            shard(student, group)
        settings = Training(
            batch=1, learning_rate=1e-4, context_parallel=group.world, activation_checkpointing="on"
        )
        each = length // group.world
        prepare(student.train(), settings, each, group, teacher)
        division = division_of(student, teacher)
        estimate = step_peak(student, settings, each, group.world, shapes[0], division=division)
        parallel = context_parallel(group, group.world)
        backward = backward_of(student, distillation(teacher), settings, group, parallel, {})
        optimizer, blocks = make_optimizer(student, settings), text(length, shapes[1].vocab_size)
        losses, times = timed_steps(
            student, backward, optimizer, blocks, settings, group, options.steps
        )
        if group.rank == 0:
            seconds = float(np.median(times[WARM:]))
            peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
            said = {"length": length, "parts": group.world, "losses": losses, "seconds": seconds}
            more = {"tokens_per_second": length / seconds, "peak_gib": peak}
            print(json.dumps({**said, **more, "estimate_gib": estimate.total / 2**30}), flush=True)


def text(length: int, vocabulary: int) -> TokenBlocks:
    """Eight blocks of random tokens."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, (8, length)).astype(np.uint32)
    documents = np.zeros(tokens.shape, np.int32)
    return TokenBlocks(tokens=tokens, documents=documents, fingerprint="random", text_bytes=1)


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    head = f"{found['length']:>9,} tokens in {found['parts']}:"
    if "error" in found:
        return f"{head} {found['error']}"
    peak = "" if found["peak_gib"] is None else f", {found['peak_gib']:.1f} GiB a GPU"
    return (
        f"{head} {found['seconds'] * 1e3:,.0f} ms, {found['tokens_per_second']:,.0f} tokens/s{peak}"
        f" (estimate {found['estimate_gib']:.1f}), losses"
        f" {' '.join(f'{loss:.5f}' for loss in found['losses'])}"
    )


def agree(rows: list[dict[str, Any]], length: int) -> bool:
    """Whether all rows of a length ran and have one process's losses; says how far they are off."""
    one, *others = (found for found in rows if found["length"] == length)
    if "error" in one or any("error" in other for other in others):
        return False
    off = [
        max(abs(a - b) / abs(a) for a, b in zip(one["losses"], other["losses"], strict=True))
        for other in others
    ]
    print(f"{length:,} tokens: losses differ by at most {max(off, default=0.0):.1e}")
    return max(off, default=0.0) < ALLOWED


if __name__ == "__main__":
    main()
