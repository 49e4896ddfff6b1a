"""One arm of studies/fp8_parity.py: a model trained in one precision, with its curve."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import lzma
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import torch
from fp8_parity_report import ARMS, LAST

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import write_json
from minipuzzle.data import TokenBlocks
from minipuzzle.kernels import choose
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.model import HybridLM, init_model
from minipuzzle.progress import Silent
from minipuzzle.settings import Training
from minipuzzle.training import mixed_precision, next_token, train
from minipuzzle.training.schedule import learning_rate

PATTERN = "M-M-M*-M-M-M*-M-M-"


LENGTH, EVALUATIONS = 2048, 10


FIELDS = ("tokens", "train_loss", "validation_loss", "learning_rate", "seconds")


def architecture(tiny: bool) -> Architecture:
    """The hybrid: every weight's sizes are multiples of 16."""
    d = 64 if tiny else 768
    kinds: dict[str, Block] = {
        "M": Mamba2(
            hidden=d,
            heads=16,
            head_dim=8 if tiny else 64,
            groups=2 if tiny else 4,
            state=16 if tiny else 64,
            chunk_size=32 if tiny else 128,
        ),
        "-": FeedForward(hidden=d, intermediate=256 if tiny else 4096),
        "*": Attention(
            hidden=d,
            q_heads=4 if tiny else 12,
            kv_heads=2 if tiny else 4,
            attn_head_dim=16 if tiny else 64,
        ),
    }
    return Architecture(
        vocab_size=16384, hidden=d, blocks=tuple(kinds[c] for c in PATTERN[: 11 if tiny else None])
    )


def load(folder: Path, pattern: str, length: int) -> TokenBlocks:
    """The arrays of a folder as blocks; documents run on from one to the next."""
    files = sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))
    parts = [np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) for path in files]
    joined = np.concatenate(parts)
    rows = joined[: len(joined) // length * length].reshape(-1, length)
    return TokenBlocks(
        tokens=rows,
        documents=np.zeros(rows.shape, np.int32),
        text_bytes=1,
        fingerprint=hashlib.sha256(rows.tobytes()).hexdigest()[:16],
    )


@torch.no_grad()
def validation_loss(model: HybridLM, blocks: TokenBlocks, batch: int) -> float:
    """Nats per token, in the precision that the model is set to."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for start in range(0, len(blocks), batch):
        tokens = torch.from_numpy(blocks.tokens[start : start + batch].astype(np.int64)).to(device)
        with mixed_precision(device):
            found = next_token(model, tokens, None)
        total, count = total + float(found.total), count + found.tokens
    return total / count


def run(options: argparse.Namespace) -> None:
    """Train until the tokens or the seconds are used up. Rows of the CSV after the last saved state
    are made again.
    """
    started = time.monotonic()
    timer = threading.Timer(options.seconds, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.daemon = True  # an arm that fails ends at once
    timer.start()
    precision, ends = ARMS[options.arm]
    length, device = 64 if options.tiny else LENGTH, torch.device(options.device)
    settings = Training(
        tokens=options.tokens,
        batch=options.batch,
        learning_rate=options.learning_rate,
        warmup=0.02,
        final_ratio=0.02,
        precision=precision,
        bf16_ends=ends,
        save_every=240,
    )
    text, held = (
        load(options.data, "train-*.npy.xz", length),
        load(options.data, "val.npy.xz", length),
    )
    model = init_model(architecture(options.tiny), 0, device=device, kernels=choose(device))
    print(
        f"{options.arm}: {model.architecture.parameters:,} parameters, {text.tokens.size:,} tokens"
        f" of text, {held.tokens.size:,} of validation, kernels {model.kernels.name}",
        flush=True,
    )
    folder = options.work / options.arm
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(folder / "curve.csv", options.out / f"{options.arm}.csv" if options.out else None)

    class Curve(Silent):
        def update(self, completed: float, **numbers: float) -> None:
            if table.due(used := int(completed), options.tokens):
                done = used / (options.batch * length)
                table.add(
                    used,
                    numbers["loss"],
                    validation_loss(model, held, options.batch),
                    learning_rate(settings, done, settings.steps(length)),
                    time.monotonic() - started,
                )

    try:
        train(
            model,
            next_token,
            text,
            settings,
            folder / "run",
            identity=options.arm,
            progress=Curve(),
        )
    except SystemExit:
        print(
            f"{options.arm}: stopped after {table.rows[-1]['tokens'] if table.rows else 0:,}"
            " tokens, go on",
            flush=True,
        )
    else:
        print(f"{options.arm}: done", flush=True)
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        write_json(
            folder / "done.json",
            {
                "done": True,
                "parameters": model.architecture.parameters,
                "device": name,
                "torch": torch.__version__,
            },
        )
    os._exit(0)  # the timer must not end whoever comes next


class Table:
    """The curve: rows in memory and in two files. A run that goes on drops what it will measure
    again.
    """

    def __init__(self, path: Path, copy: Path | None) -> None:
        self.paths = [path] if copy is None else [path, copy]
        self.rows: list[dict[str, float]] = []
        if path.exists():
            with path.open() as file:
                self.rows = [
                    {key: float(value) for key, value in row.items()}
                    for row in csv.DictReader(file)
                ]
        self._begun = False

    def due(self, used: int, budget: int) -> bool:
        """Whether to measure: every hundredth in the last tenth, every fiftieth before, and never
        twice.
        """
        if not self._begun:  # the first call says where the run goes on
            self._begun = True
            self.rows = [row for row in self.rows if row["tokens"] <= used]
            return False
        step = budget * (LAST / EVALUATIONS if used > (1 - LAST) * budget else 0.02)
        last = self.rows[-1]["tokens"] if self.rows else 0
        return used // step > last // step or used >= budget > last

    def add(self, *values: float) -> None:
        """Append a row and write."""
        self.rows.append(dict(zip(FIELDS, values, strict=True)))
        print(
            "  ".join(f"{name} {value:,.4g}" for name, value in self.rows[-1].items()), flush=True
        )
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(self.rows)
