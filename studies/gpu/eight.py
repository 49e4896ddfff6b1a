"""8 B to 4 B on one GPU by the user's own commands, in calls of ten minutes: what each takes.

    bash studies/gpu/eight.sh                       # on the GPU machine; its header has the calls
    # a rehearsal
    python studies/gpu/eight.py --tiny --device cpu --work /tmp/e8 --out /tmp/e8 --steps 4

Stages, in order: make (random weights of Nemotron-H-8B's shape, the embedded tokenizer and texts),
inspect, score, search (24 candidates), prune, distill (200 steps of 8,192 tokens), eval, generate,
export. Every command is ``minipuzzle`` with its defaults but for sizes, in a process of its own. A
row each in OUT/eight.json (stages.py): wall seconds, the GPU's peak (allocated, reserved) beside
what was printed before, the CPU's peak, disk of the run directory after it, and the last lines that
were said. docs/results/eight.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from stages import Stage, through

STAGES = ("make", "inspect", "score", "search", "prune", "distill", "eval", "generate", "export")


def main() -> None:
    """Run the stages that are left, until the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="run directory: 106 GB")
    parser.add_argument("--checkpoint", type=Path, help="for the 8B: 17 GB (default: WORK/parent)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=560.0, help="seconds of this call")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    ends = time.monotonic() + options.limit
    options.checkpoint = options.checkpoint or options.work / "parent"
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = [Stage(name=s, words=words(s, options)) for s in STAGES if s in options.only]
    through(chosen, "eight", options.work, options.out, ends)


def words(stage: str, options: argparse.Namespace) -> list[Any]:
    """A stage's command line."""
    data = options.work / "validation.txt"
    run, device = ["--run", options.work / "run"], ["--device", options.device]
    tiny = options.tiny
    length, batch = (64, 4) if tiny else (8192, 1)
    tokens = options.steps * length * batch
    few = ["--samples", 8, "--block-samples", 4, "--length", 64] if tiny else []
    lines: dict[str, list[Any]] = {
        "make": [options.checkpoint, options.work, options.device, *["tiny"] * tiny],
        "inspect": [options.checkpoint],
        "score": [options.checkpoint, *few, "--data", data, *run, *device],
        "search": [
            *("--budget", "75%" if tiny else "50%", "--candidates", 24, "--top", 1),
            *(("--multiple", 16, "--validation-blocks", 8, "--length", 64) if tiny else ()),
            *("--data", data, *run, *device),
        ],
        "prune": [*run, *device],
        "distill": [
            *("--data", options.work / "train.txt", "--validation", data, "--tokens", tokens),
            *("--length", length, "--batch", batch, "--learning-rate", "1e-4"),
            *("--save-every", 600, *run, *device),
        ],
        "eval": ["--data", data, *(("--length", 64) if tiny else ()), *run, *device],
        "generate": ["The honourable member", "--tokens", 32, *run, *device],
        "export": [*run],
    }
    return [stage, *lines[stage]]


if __name__ == "__main__":
    main()
