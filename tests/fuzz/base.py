"""What cases start from: two checkpoints, a sharded one, a text and a finished run directory."""

import contextlib
import io
import os
import shutil
import sys
from pathlib import Path

import torch
from conftest import save, shaken, tiny
from helpers import TEXT

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.cli import main
from minipuzzle.cost.latency import LatencyTable, describe, surroundings
from minipuzzle.profile import _shrunk
from minipuzzle.settings import Generation

from .case import TRAINING, cpu, search

WORK = Generation(batch=1, prompt=8, output=1)


def make_base(folder: Path) -> Path:
    """Fill ``folder`` with ck, big, sharded, text.txt and run (scored, searched, pruned, distilled,
    adapted, measured).
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    save(shaken(tiny()), folder / "ck")
    save(shaken(tiny(hidden=64, intermediate=128, state=16)), folder / "big")
    opened = Checkpoint.open(folder / "ck")
    write_checkpoint(
        folder / "sharded",
        opened.architecture,
        opened.tensor,
        source=opened,
        config=opened.config,
        shard_bytes=100_000,
    )
    shutil.copy(TEXT, folder / "text.txt")
    table(opened.architecture).save(folder / "run" / "latency.json")
    data = ("--run", "run", "--data", "text.txt", "--length", 64)
    for words in (
        cpu("score", "ck", "--samples", 2, "--block-samples", 1, *data),
        search("--budget", "96%"),
        cpu("prune", "--run", "run"),
        cpu(
            "distill",
            "--run",
            "run",
            "--data",
            "text.txt",
            "--validation",
            "text.txt",
            "--short-tokens",
            128,
            *TRAINING,
            "--learning-rate",
            "5e-4",
        ),
        cpu("eval", *data),
        cpu("adapt", "ck", "--run", "run", "--data", "text.txt", "--rank", 2, *TRAINING),
    ):
        code, said = command(words, folder)
        assert code == 0, said
    return folder


def table(parent: Architecture) -> LatencyTable:
    """Made-up times of every block, whole and at an eighth, which grow with its size."""
    meta = {"device": "a CPU", "dtype": "float32", "date": "2026-11-29", "additivity": []}
    entries = {}
    for phase, tokens in (("prefill", WORK.prompt), ("decode", WORK.context)):
        entries[phase, 1, tokens, surroundings(parent)] = 0.1
        for block in {each for b in parent.blocks for each in (b, _shrunk(b, 0, 1.0))}:
            entries[phase, 1, tokens, describe(block)] = sum(block.sizes.values()) / 100
    return LatencyTable(meta=meta, entries=entries)


def command(words: tuple, folder: Path) -> tuple[int, str]:
    """(exit code, what was said) of a command in this process."""
    before, where, said = sys.argv, os.getcwd(), io.StringIO()
    sys.argv = ["minipuzzle", *map(str, words)]
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        return (
            end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        ), said.getvalue()
    finally:
        sys.argv = before
        os.chdir(where)
    return 0, said.getvalue()
