"""A mixture of experts on one GPU, and on two with its experts gathered (FSDP2) or divided
(``--expert-parallel 2``): equal losses, tokens a second, memory.

    python studies/gpu/expert_parallel.py --out rows.json      # on two GPUs: two minutes
    python studies/gpu/expert_parallel.py --tiny --device cpu  # rehearsal, gloo

Experts as Qwen3-30B-A3B has them (gated, 768 wide, 8 of them a token), half as many and in six
blocks: 1.8 B parameters of the teacher, 1.3 B of the student, whose blocks keep unequal numbers, as
cuts leave them. Random weights and tokens, BF16, FP32 masters, the same batch in every row; one GPU
replays a CUDA graph, as ``distill`` does. Memory is what steps allocate at most, and the estimate
of that. The rows of two GPUs share processes; rows that ``--out`` has already are kept. NVLink
multicast stays off.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from distill_trainers import our_models
from long_context import text
from steps import timed_steps

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import write_json
from minipuzzle.cost.exchange import sent_bytes, weight_bytes
from minipuzzle.kinds import Attention, Experts
from minipuzzle.memory.training import RESERVE
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.settings import Training
from minipuzzle.training import distillation
from minipuzzle.training.adamw import keep_copies
from minipuzzle.training.captured import backward_of
from minipuzzle.training.optimizers import make_optimizer
from minipuzzle.training.parallel import shard
from minipuzzle.training.prepare import division_of, holds_teacher, prepare, step_peak
from minipuzzle.training.stages import stages

WARM = 5
"""Steps that are not timed: kernels are compiled, and the graph of one GPU is captured."""
ALLOWED = 1e-3
"""Of the losses of a step in BF16, as a share."""
ROWS = {1: (1,), 2: (1, 2)}
"""By number of GPUs: how many of them share the experts."""
KEPT = (48, 48, 40, 48, 35, 48)
"""Experts of the student's blocks, of 64."""
TINY_KEPT = (6, 5, 1)


def main() -> None:
    """Each number of GPUs in processes of its own; exit code 1 where losses differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        with ranks(torch.device(options.device)) as group:
            for together in ROWS[group.world]:
                measured(group, together, options)
        return
    there = options.out and options.out.exists()
    rows = json.loads(options.out.read_text())["rows"] if there else []
    for cards in ROWS:
        if not any(known["cards"] == cards and "error" not in known for known in rows):
            rows = [known for known in rows if known["cards"] != cards] + launched(cards)
            if options.out:
                write_json(options.out, {"rows": rows})
    for found in rows:
        print(line(found))
    sys.exit(0 if agree(rows) else 1)


def launched(cards: int) -> list[dict[str, Any]]:
    """The rows of so many GPUs, or what their processes said last."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cards)]
    words = [*(launch if cards > 1 else []), *sys.argv, "--row"]
    environment = {**os.environ, "NCCL_NVLS_ENABLE": "0"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    rows = [json.loads(said) for said in done.stdout.splitlines() if said.startswith("{")]
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line or "error" in line]
        rows.append({"cards": cards, "error": "\n".join(said[:5])[:1500] or done.stderr[-1500:]})
    return rows


def measured(group: Ranks, together: int, options: argparse.Namespace) -> None:
    """Train; the first process prints the row."""
    cuda = group.device.type == "cuda"
    teacher_shape, shape = architectures(options.tiny)
    batch, length = (4, 64) if options.tiny else (options.batch, options.length)
    settings = Training(batch=batch, learning_rate=1e-4, expert_parallel=together)
    teacher, student = our_models(teacher_shape, shape, options.device)
    at_once = batch * length // group.world
    if group.world > 1:
        if not holds_teacher([student], teacher_shape, settings, at_once, group):
            shard(teacher, group, settings)
        shard(student, group, settings)
    said = prepare(student.train(), settings, at_once, group, teacher)
    if cuda:  # what was there before the models were cut does not count
        torch.cuda.reset_peak_memory_stats()
    how, division = (at_once, group.world, teacher_shape), division_of(student, teacher)
    estimate = step_peak(student, settings, *how, division=division)
    estimate = estimate.without((RESERVE,))
    optimizer, blocks = make_optimizer(student, settings), text(length, shape.vocab_size)
    own = cuda and group.world == 1
    copies = keep_copies(student, optimizer, stages(blocks, settings)) if own else {}
    backward = backward_of(student, distillation(teacher), settings, group, None, copies)
    losses, times = timed_steps(
        student, backward, optimizer, blocks, settings, group, options.steps
    )
    peaks = group.together(
        lambda: torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
    )
    if group.rank == 0:
        seconds = float(np.median(times[WARM:]))
        sent = weight_bytes(shape, teacher_shape, group.world, together, division)
        sent += sent_bytes(shape, teacher_shape, at_once, together)
        row = {"cards": group.world, "together": together, "losses": losses, "seconds": seconds}
        row |= {"tokens_per_second": batch * length / seconds, "first": times[0], "said": said}
        row |= {"peak_gib": peaks if cuda else None, "estimate_gib": estimate.total / 2**30}
        print(json.dumps({**row, "sent_gb": sent / 1e9}), flush=True)
    del teacher, student, optimizer, backward, copies
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()


def architectures(tiny: bool) -> tuple[Architecture, Architecture]:
    """(teacher, student)."""
    hidden = 64 if tiny else 2048
    a = Attention(hidden=hidden, q_heads=16, kv_heads=4, attn_head_dim=hidden // 16)
    e = Experts(
        hidden=hidden,
        experts=8 if tiny else 64,
        top_k=1 if tiny else 8,
        expert_width=32 if tiny else 768,
        router="softmax",
        gated=True,
        activation="silu",
    )
    kept = TINY_KEPT if tiny else KEPT
    blocks = tuple(block for _ in kept for block in (a, e))
    teacher = Architecture(vocab_size=512 if tiny else 32_768, hidden=hidden, blocks=blocks)
    fewer = tuple(block for n in kept for block in (a, replace(e, experts=n)))
    return teacher, replace(teacher, blocks=fewer)


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    if "error" in found:
        return f"{found['cards']} GPUs: {found['error']}"
    peaks = found["peak_gib"] or []
    each = f", {', '.join(f'{peak:.1f}' for peak in peaks)} GiB a GPU" if peaks else ""
    return (
        f"{found['cards']} GPUs, experts shared by {found['together']}:"
        f" {found['seconds'] * 1e3:,.0f} ms, {found['tokens_per_second']:,.0f} tokens/s{each}"
        f" (estimate {found['estimate_gib']:.1f}), {found['sent_gb']:.2f} GB sent by plan, losses"
        f" {' '.join(f'{loss:.5f}' for loss in found['losses'])}"
    )


def agree(rows: list[dict[str, Any]]) -> bool:
    """Whether all rows ran and have one GPU's losses; says how far they are off."""
    if any("error" in found for found in rows):
        return False
    one, *others = (np.array(found["losses"]) for found in rows)
    off = [float(np.max(np.abs(other / one - 1))) for other in others]
    print(f"losses differ by at most {', '.join(f'{each:.1e}' for each in off)}")
    return max(off) < ALLOWED


if __name__ == "__main__":
    main()
