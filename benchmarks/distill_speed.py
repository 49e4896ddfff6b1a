"""Tokens/s and memory of one distillation step: ours in BF16 and FP8 against what people use.
docs/results/distill_speed.md.

    # all rows, a process each: about 9 minutes on an H100
    python benchmarks/distill_speed.py --out speed.json
    # Nemotron-H-8B's shape to 4.05 B, a block of 8,192 tokens a step, and what the time goes into
    python benchmarks/distill_speed.py --shape 8b --batch 1 --length 8192 --profile
    # does it run at all
    python benchmarks/distill_speed.py --tiny --device cpu --rows ours-bf16 plain

A hybrid teacher of 1.2 B parameters, a student of 1.0 B, 131,072 words, random tokens, 2 x 4096 a
step, forward KL, FP32 master weights, fused AdamW, BF16 teacher. Every row may use mamba-ssm and
causal-conv1d (transformers takes them when they are installed). ``ours-fp8-both`` has the teacher
in FP8 too, ``ours-fp8-all`` moreover the blocks at either end of both, ``-lean`` the optimiser
adamw-8bit-bf16. ``plain`` is transformers' model in a plain PyTorch loop with both models' full
logits, ``plain-ours`` our model in that loop; ``trl`` is GKDTrainer (lmbda 0, beta 0), ``modelopt``
NVIDIA's KDTrainer. A row whose package cannot be imported says so. MFU counts the student's forward
and backward and the teacher's forward, against the BF16 peak. ``--profile`` profiles our rows'
steps after those that are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _rows import in_process, tell
from _shapes import eight_billion, one_billion
from distill_account import table
from distill_trainers import STEPS, Clock, Enough, modelopt, ours, plain, plain_ours, tokens, trl

from minipuzzle.artifacts import write_json
from minipuzzle.cost.training import peak_flops, training_flops

ROWS = (
    "ours-bf16",
    "ours-fp8",
    "ours-fp8-both",
    "ours-fp8-all",
    "ours-lean",
    "ours-fp8-all-lean",
    "plain",
    "plain-ours",
    "trl",
    "modelopt",
)


def main() -> None:
    """Run each row in its own process, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=("1b", "8b"), default="1b")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=0, help="ours: blocks at once (0: all)")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--profile", action="store_true", help="of our rows: milliseconds by kind of kernel"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        tell(measure(options.row, options))
        return
    rows: list[dict[str, Any]] = []
    for row in options.rows:
        rows.append(measured(row, options))
        if options.out:  # after each: a call that runs out of time has told something
            write_json(
                options.out, {"rows": rows, "batch": options.batch, "length": options.length}
            )
    print(f"\n{'row':<18}{'tokens/s':>10}{'ms/step':>9}{'peak GiB':>10}{'MFU':>8}{'loss':>9}")
    for row in rows:
        if "error" in row:
            print(f"{row['row']:<18}{row['error'][:110]}")
        else:
            print(
                f"{row['row']:<18}{row['tokens_per_second']:>10,.0f}{row['step_ms']:>9.1f}{row['peak_gib']:>10.2f}"
                f"{row['mfu']:>8.1%}{row['loss']:>9.4f}"
            )


def measured(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row from a process of its own."""
    print(f"{row} ...", flush=True)
    flags = ["--tiny"] * options.tiny + ["--profile"] * options.profile
    result, printed = in_process(
        __file__,
        row,
        "--device",
        options.device,
        "--batch",
        options.batch,
        "--length",
        options.length,
        "--shape",
        options.shape,
        "--micro-batch",
        options.micro_batch,
        *flags,
    )
    if "account" in result:
        print(table(result["account"]))
    elif "error" in result:
        print(printed)
    return result


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    teacher, student = one_billion(options.tiny) if options.shape == "1b" else eight_billion()
    clock = Clock(torch.device(options.device), options.profile)
    rows = {"plain": plain, "plain-ours": plain_ours, "trl": trl, "modelopt": modelopt}
    run: Callable[..., float] = rows.get(row, ours)
    try:
        loss = run(
            teacher,
            student,
            tokens(student, options),
            options,
            clock,
            **({"row": row} if run is ours else {}),
        )
    except Enough as enough:
        loss = float(str(enough))
    per_step = options.batch * options.length
    speed = per_step * STEPS / clock.seconds
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    flops = training_flops(student, options.length, teacher)
    return {
        "row": row,
        "tokens_per_second": speed,
        "step_ms": 1e3 * clock.seconds / STEPS,
        "peak_gib": clock.peak,
        "mfu": speed * flops / (peak_flops(name) or float("nan")),
        "loss": loss,
        "device": name,
        "torch": torch.__version__,
        "student_parameters": student.parameters,
        "teacher_parameters": teacher.parameters,
        "flops_per_token": flops,
        **clock.found,
    }


if __name__ == "__main__":
    main()
