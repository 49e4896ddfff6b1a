r"""Is a model trained in FP8 as good as in BF16? The same hybrid, text and seed, three ways.
docs/results/fp8.md.

    python studies/fp8_data.py --shared ../shared/data --out .carry/fp8             # here, once
    # on the GPU machine; the same command again goes on where it stopped, with the arm that is
    # furthest behind first:
    python studies/fp8_parity.py --arms bf16 fp8 fp8-all --gpus 2 --seconds 540 \
        --data .carry/fp8 --out $OUT
    # three arms on one GPU, under MPS
    CUDA_VISIBLE_DEVICES=1,1,1 python studies/fp8_parity.py --gpus 3 …
    # a table, fp8.png, fp8.json; arms without a CSV there: as kept
    python studies/fp8_parity.py --report FOLDER

101 M parameters, 16,384 words, blocks of 2,048 tokens, 32 at a time, 300 M tokens. ``fp8`` keeps 4
blocks at either end in BF16, ``fp8-all`` none. Validation loss is measured in each arm's own
precision, ten times in the last tenth; their means are compared. Source of the claim:
arXiv:2504.03624 (about 0.1 % in loss).
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fp8_parity_report import ARMS, report
from fp8_parity_run import run
from headline_stages import visible_gpu

from minipuzzle.artifacts import read_json, write_json

LEAST_SECONDS = 60
"""Of a GPU that an arm is begun for: it loads and compiles first."""


def main() -> None:
    """Train an arm for some time, or compare the arms that are done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS)[:3])
    parser.add_argument(
        "--gpus", type=int, default=2, help="arms at a time, each on one of the visible GPUs"
    )
    parser.add_argument("--arm", choices=ARMS, help="only this one, in this process")
    parser.add_argument(
        "--seconds",
        type=float,
        default=540,
        help="then states are saved, which takes up to 30 more",
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/parity"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tokens", type=int, default=300_000_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="does it run at all: a small model, 64 tokens a block"
    )
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if options.report:
        report(options.report)
    elif options.arm:
        run(options)
    else:
        run_all(options)


def run_all(options: argparse.Namespace) -> None:
    """Arms beside each other, each free GPU taking the one that is furthest behind; what stands
    where at the end.
    """
    end, running, failed = (
        time.monotonic() + options.seconds,
        dict[int, tuple[str, subprocess.Popen[bytes]]](),
        set[str](),
    )
    while True:
        for gpu, (arm, process) in list(running.items()):
            if process.poll() is not None:
                failed |= {arm} if process.returncode else set()
                del running[gpu]
        busy = {arm for arm, _ in running.values()} | failed
        waiting = sorted(
            (a for a in options.arms if a not in busy and not standing(options, a)["done"]),
            key=lambda a: standing(options, a)["tokens"],
        )
        free = [gpu for gpu in range(options.gpus) if gpu not in running]
        seconds = end - time.monotonic()
        if seconds > min(LEAST_SECONDS, options.seconds / 2):
            for gpu, arm in zip(free, waiting, strict=False):
                running[gpu] = (arm, start(options, arm, gpu, seconds))
        if not running:
            break
        time.sleep(0.5)
    found = {arm: standing(options, arm) for arm in options.arms}
    for arm, stands in found.items():
        left = (
            "done"
            if stands["done"]
            else f"{stands['minutes_left']:.1f} minutes left"
            if stands["speed"]
            else "not begun"
        )
        print(
            f"{arm:<10}{stands['tokens']:>13,.0f} tokens {stands['speed']:>9,.0f} tokens/s  {left}"
        )
    if options.out:
        write_json(options.out / "arms.json", found)
        for curve in options.work.glob(
            "*/curve.csv"
        ):  # an arm that was done before this call has written none there
            shutil.copy(curve, options.out / f"{curve.parent.name}.csv")
    for arm in sorted(failed):
        print(f"{arm} FAILED\n" + (options.work / arm / "log.txt").read_text()[-1500:])
    sys.exit(bool(failed))


def start(
    options: argparse.Namespace, arm: str, gpu: int, seconds: float
) -> subprocess.Popen[bytes]:
    """An arm in a process of its own, on the GPU of that place among those that this process may
    use.
    """
    print(f"{arm} on GPU {gpu} for {seconds:.0f} s", flush=True)
    (options.work / arm).mkdir(parents=True, exist_ok=True)
    same = (
        "data",
        "work",
        "tokens",
        "batch",
        "learning_rate",
        "device",
        *(["out"] if options.out else []),
    )
    words = [
        w for name in same for w in (f"--{name.replace('_', '-')}", str(getattr(options, name)))
    ]
    command = [
        sys.executable,
        __file__,
        "--arm",
        arm,
        "--seconds",
        str(seconds),
        *words,
        *(["--tiny"] * options.tiny),
    ]
    environment = {
        "TRITON_CACHE_AUTOTUNING": "1",
        **os.environ,
        "CUDA_VISIBLE_DEVICES": visible_gpu(gpu),
    }
    with (options.work / arm / "log.txt").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def standing(options: argparse.Namespace, arm: str) -> dict[str, Any]:
    """How far an arm is: tokens, tokens/s with what was spent on validation, minutes left, and what
    it said when done.
    """
    log, facts = options.work / arm / "run/log.csv", options.work / arm / "done.json"
    rows = list(csv.DictReader(log.read_text().splitlines())) if log.exists() else []
    tokens, seconds = (float(rows[-1][name]) if rows else 0.0 for name in ("tokens", "seconds"))
    speed = tokens / seconds if seconds else 0.0
    done = read_json(facts) if facts.exists() else {"done": False}
    left = (options.tokens - tokens) / speed / 60 if speed else None
    return {"tokens": tokens, "speed": speed, "minutes_left": left, **done}


if __name__ == "__main__":
    main()
