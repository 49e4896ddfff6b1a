"""A slice of Nemotron 3 Nano (30B-A3B) with random weights: scored, searched, cut and checked on
one GPU, with the memory that was printed beside the memory that was measured.

    # carry .gpu and .whl
    python studies/gpu/nano_30b.py --layers 26 --folder /dev/shm --out nano_30b.json

Random weights: the numbers are of time and memory, no quality follows.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import minipuzzle as mp
from minipuzzle.arch import Architecture
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import read_config
from minipuzzle.messages import print_messages
from minipuzzle.settings import Data, ScoreSettings, SearchSettings

sys.path.insert(0, "benchmarks")
from random_checkpoint import slice_of, write

GIB = 1 << 30
CONFIG = Path("docs/examples/nemotron-3-nano-30b-a3b")


class Log(logging.Handler):
    """What the stages said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def measured(name: str, result: dict[str, Any], log: Log) -> Iterator[None]:
    """Seconds, peak of the GPU, and what was said meanwhile."""
    torch.cuda.reset_peak_memory_stats()
    before, started = len(log.lines), time.perf_counter()
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            with open("/proc/self/statm") as file:
                largest[0] = max(largest[0], int(file.read().split()[1]) * 4096)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    ended.set()
    watcher.join()
    result[name] = {
        "seconds": time.perf_counter() - started,
        "gpu_gib": torch.cuda.max_memory_allocated() / GIB,
        "resident_gib": largest[0] / GIB,
        "said": [re.sub(r"\s+", " ", line) for line in log.lines[before:]],
    }
    print(name, {k: v for k, v in result[name].items() if k != "said"}, flush=True)


def text(folder: Path, words: int) -> None:
    """Words of a few letters; what they are does not matter."""
    generator = torch.Generator().manual_seed(0)
    for name in ("calibration", "validation"):
        numbers = torch.randint(0, 5000, (words,), generator=generator).tolist()
        path = folder / f"{name}.txt"
        path.write_text("\n\n\f\n".join(" ".join(map(str, numbers[i::8])) for i in range(8)))


def main() -> None:
    """Everything; results as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--budget", default="active=85%")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    whole = read_config(options.config)[1]
    architecture: Architecture = slice_of(whole, options.layers)
    folder: Path = options.folder / "nano"
    folder.mkdir(parents=True, exist_ok=True)
    print_messages()
    log, result = Log(), dict[str, Any]()
    logging.getLogger("minipuzzle").addHandler(log)
    result |= {"pattern": architecture.pattern, "parameters": architecture.parameters}
    result["active"] = architecture.active_parameters
    started = time.perf_counter()
    parent = folder / "parent"
    if not parent.exists():  # a process of its own, so that memory is of what follows
        context = multiprocessing.get_context("spawn")
        writer = context.Process(target=write, args=(architecture, parent, "cuda"))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit("the checkpoint was not written")
        tokenizer = Path(mp.__file__).parent / "embedded" / "teacher" / "tokenizer.json"
        (parent / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    result["written_s"] = time.perf_counter() - started
    print(f"{architecture.parameters:,} parameters in {result['written_s']:.0f} s", flush=True)
    text(folder, 400_000)
    data = Data(
        calibration=str(folder / "calibration.txt"),
        validation=str(folder / "validation.txt"),
        length=options.length,
    )
    job = mp.load(parent, run=folder / "run", data=data)
    with measured("score", result, log):
        mp.score(job, ScoreSettings(samples=32, block_samples=8, batch=4))
    write_json(options.out, result)
    with measured("search", result, log):
        found = mp.search(
            job, SearchSettings(budget=(options.budget,), candidates=4, validation_blocks=4, top=1)
        )
    result["winner"] = str(found.candidates[0])[:600]
    write_json(options.out, result)
    with measured("prune", result, log):
        student = next(iter(mp.prune(job).values()))
    result["student"] = {
        "parameters": student.architecture.parameters,
        "active": student.architecture.active_parameters,
        "bytes": student.bytes,
    }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
