"""What saving a state of 2 GB costs a training whose steps take 0.5 s, in time and in memory.
docs/results/saves.md.

    python benchmarks/save_cost.py                    # 2 arms of 600 steps: 11 minutes on 2 cores

The named baseline is the same training without saves, in the same run. A state is 12 bytes a
parameter (168 M here); steps are padded to 0.5 s and change few weights, so that what is measured
is the saves. Each arm is a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from watch import Watch

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.config import read_config
from minipuzzle.data import TokenBlocks
from minipuzzle.embedded import teacher_path
from minipuzzle.model import HybridLM
from minipuzzle.settings import Training
from minipuzzle.training import train
from minipuzzle.training.objectives import BatchLoss, Objective

ARMS = {"without saves": 1e9, "--save-every 30": 30.0}
LENGTH = 16


def main() -> None:
    """Run the arms, print and write what they give."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--step-seconds", type=float, default=0.5)
    parser.add_argument("--parameters", type=int, default=168_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("docs/results/saves.json"))
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm is not None:
        print(json.dumps(arm(options, ARMS[options.arm])))
        return
    rows = {}
    for name in ARMS:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--arm", name],
            stdout=subprocess.PIPE,
            check=True,
        )
        rows[name] = json.loads(done.stdout)
    base = rows["without saves"]["until_last_step_s"]
    for name, row in rows.items():
        row["costs"] = row["until_last_step_s"] / base - 1
        during = [save for save in row["saves"] if save["step"] < row["steps"]]
        row["saves_during"] = len(during)
        row["longest_stall_s"] = max((save["stall_s"] for save in during), default=0.0)
        taken = row["memory_of_a_save"]
        print(
            f"{name}: {row['until_last_step_s']:.1f} s, {row['costs']:+.1%}, {len(during)} saves of"
            f" {row['state']:,} bytes before the last, each held the steps up for"
            f" {row['longest_stall_s']:.2f} s at most; a save took {taken:,} bytes of memory ="
            f" {taken / row['shard_bytes']:.2f} of a shard"
        )
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


def arm(options: argparse.Namespace, save_every: float) -> dict:
    """One training; what ``Watch`` saw of it and the bytes of its last state."""
    torch.set_num_threads(1)
    model = big_model(options.parameters)
    rows = np.zeros((options.steps, LENGTH), dtype=np.uint16)
    blocks = TokenBlocks(
        tokens=rows, documents=np.zeros(rows.shape, np.int32), fingerprint="zeros", text_bytes=1
    )
    objective = PacedNorm(options.step_seconds)
    watch = Watch()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        settings = Training(tokens=options.steps * LENGTH, batch=1, save_every=save_every, clip=1e9)
        train(model, objective, blocks, settings, Path(folder), identity="save_cost")
        newest = max(Path(folder, "state").iterdir())
        state = sum(file.stat().st_size for file in newest.iterdir())
    return {**watch.report(), "state": state}


class PacedNorm(Objective):
    """Steps of at least ``seconds``, whose loss is a sum of the last norm's weights."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, 0.0

    def __call__(
        self, model: HybridLM, tokens: torch.Tensor, documents: torch.Tensor | None
    ) -> BatchLoss:
        """The first step sums a value of every parameter, the others the last norm alone."""
        first, count = self.last == 0, tokens[:, 1:].numel()
        time.sleep(max(0.0, self.last + self.seconds - time.monotonic()))
        self.last = time.monotonic()
        total = model.final_norm.weight.sum()
        # the first step makes every moment, the others change the last norm alone
        if first:
            total = total + sum(p.reshape(-1)[:1].sum() for p in model.parameters())
        return BatchLoss(total=total, tokens=count, entropy=torch.zeros(()))


def big_model(parameters: int) -> HybridLM:
    """The embedded teacher's blocks under a vocabulary that makes it ``parameters`` large."""
    architecture = read_config(teacher_path())[1]
    words = 1 + (parameters - architecture.parameters) // (
        architecture.hidden * (1 if architecture.tied_head else 2)
    )
    sizes = {**vars(architecture), "vocab_size": architecture.vocab_size + words}
    model = HybridLM(Architecture(**sizes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    return model


if __name__ == "__main__":
    main()
