"""Whether a step over several GPUs (FSDP2, a whole teacher) can be one CUDA graph: losses and times
beside steps that are launched kernel by kernel.

    torchrun --nproc-per-node 2 studies/gpu/captured_shards.py --out rows.json     # two GPUs: 90 s
    torchrun --nproc-per-node 1 studies/gpu/captured_shards.py --rows 1    # first: Triton tunes
    torchrun --nproc-per-node 2 studies/gpu/captured_shards.py --device cpu --tiny --rows 1

1.2 B to 1.0 B (benchmarks/_shapes.py), 4 x 4,096 random tokens a step, BF16 and FP8, with one and
two micro-batches. A row is written when it is there; ``failed`` is why the capture was given up.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _shapes import one_billion
from distill_trainers import our_models
from long_context import text
from steps import timed_steps

from minipuzzle.artifacts import write_json
from minipuzzle.model import gather_once, keep_codes, set_precision
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.settings import Training
from minipuzzle.settings.training import Precision
from minipuzzle.training import distillation
from minipuzzle.training.captured import Backward
from minipuzzle.training.optimizers import make_optimizer
from minipuzzle.training.parallel import shard

BATCH, STEPS, WARM = 4, 14, 6
ROWS: tuple[tuple[Precision, int, bool], ...] = (
    ("bf16", 0, True),
    ("fp8", 0, True),
    ("fp8", 1, True),
    ("fp8", 0, False),
    ("bf16", 0, False),
)
"""Precision, micro-batch, captured."""


class Heard(logging.Handler):
    """What was said since."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.told.append(record.getMessage())


def main() -> None:
    """A row after the other, in all processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rows", type=int, default=len(ROWS), help="of them, from the first on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = list[dict[str, Any]]()
    with ranks(torch.device(options.device)) as group:
        for precision, micro_batch, captured in ROWS[: options.rows]:
            row = measured(group, precision, micro_batch, captured, options)
            if group.rank == 0:
                rows.append(row)
                print(row, flush=True)
                if options.out:
                    write_json(options.out, {"rows": rows})


def measured(
    group: Ranks, precision: Precision, micro_batch: int, captured: bool, options: Any
) -> dict[str, Any]:
    """Losses and the median of the later steps."""
    cuda = group.device.type == "cuda"
    teacher_shape, shape = one_billion(options.tiny)
    settings = Training(
        batch=BATCH, micro_batch=micro_batch, learning_rate=1e-4, precision=precision
    )
    teacher, student = our_models(teacher_shape, shape, options.device)
    set_precision(teacher, precision, settings.bf16_ends)
    keep_codes(teacher)
    shard(student, group, settings)
    set_precision(student.train(), precision, settings.bf16_ends)
    gather_once(student, True)
    blocks = text(64 if options.tiny else 4096, shape.vocab_size)
    optimizer = make_optimizer(student, settings)
    backward = Backward(
        student, distillation(teacher), captures=captured and cuda, adds=micro_batch > 0
    )
    heard = Heard()
    logging.getLogger("minipuzzle.training.captured").addHandler(heard)
    losses, times = timed_steps(student, backward, optimizer, blocks, settings, group, STEPS)
    row: dict[str, Any] = {
        "precision": precision,
        "micro_batch": micro_batch,
        "captured": bool(backward.graph),
    }
    row |= {"ms": 1e3 * sorted(times[WARM:])[(STEPS - WARM) // 2], "losses": losses}
    row |= {
        "failed": heard.told,
        "gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }
    del teacher, student, optimizer, backward
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return row


if __name__ == "__main__":
    main()
