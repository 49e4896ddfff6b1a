"""8 B to 4 B on one GPU by the user's own commands, in calls of ten minutes: what each takes.

    bash studies/gpu/eight.sh                       # on the GPU machine; its header has the calls
    # a rehearsal
    python studies/gpu/eight.py --tiny --device cpu --work /tmp/e8 --out /tmp/e8 --steps 4

Stages, in order: make (random weights of Nemotron-H-8B's shape, the embedded tokenizer and texts),
inspect, score, search (24 candidates), prune, distill (200 steps of 8,192 tokens), eval, generate,
export. Every command is ``minipuzzle`` with its defaults but for sizes, in a process of its own. A
row each in OUT/eight.json, written as it ends: wall seconds, the GPU's peak (allocated, reserved)
beside what was printed before, the CPU's peak, disk of the run directory after it, and the last
lines that were said. Rows are kept in WORK/eight.json too: called again it goes on with what is
missing; a stage that the limit ended goes on by its own saves. docs/results/eight.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STAGES = ("make", "inspect", "score", "search", "prune", "distill", "eval", "generate", "export")
GIB = 2**30
KEPT_LINES = 30


def main() -> None:
    """Run the stages that are left, until the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="run directory: 75 GB")
    parser.add_argument("--checkpoint", type=Path, help="for the 8B: 17 GB (default: WORK/parent)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=560.0, help="seconds of this call")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.checkpoint = options.checkpoint or options.work / "parent"
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + options.limit
    rows = known(options.work)
    for stage in (s for s in STAGES if s in options.only and not rows.get(s, {}).get("done")):
        left = ends - time.monotonic()
        if left < 10:
            break
        row = run(stage, options, left)
        before = rows.get(stage, {"calls": 0, "seconds": 0.0})
        row |= {"calls": before["calls"] + 1, "seconds": row["seconds"] + before["seconds"]}
        rows[stage] = row
        for folder in (options.work, options.out):
            (folder / "eight.json").write_text(json.dumps(rows, indent=1) + "\n")
        print(line(stage, row), flush=True)
        if not row["done"]:
            print("\n".join(row["said"]), flush=True)
            break
    (options.out / "eight.json").write_text(json.dumps(rows, indent=1) + "\n")
    left_over = [s for s in STAGES if not rows.get(s, {}).get("done")]
    print(f"left: {', '.join(left_over) or 'nothing'}")


def known(work: Path) -> dict[str, Any]:
    """The rows so far."""
    file = work / "eight.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def words(stage: str, options: argparse.Namespace) -> list[str]:
    """A stage's command line."""
    data = options.work / "validation.txt"
    run, device = ["--run", options.work / "run"], ["--device", options.device]
    tiny = options.tiny
    length, batch = (64, 4) if tiny else (8192, 1)
    tokens = options.steps * length * batch
    few = ["--samples", 8, "--block-samples", 4, "--length", 64] if tiny else []
    lines: dict[str, list[Any]] = {
        "inspect": [options.checkpoint],
        "score": [options.checkpoint, *few, "--data", data, *run, *device],
        "search": [
            *("--budget", "75%" if tiny else "50%", "--candidates", 24, "--top", 1),
            *(("--multiple", 8, "--validation-blocks", 8, "--length", 64) if tiny else ()),
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
    return [stage, *map(str, lines[stage])]


def run(stage: str, options: argparse.Namespace, left: float) -> dict[str, Any]:
    """A row: the stage in a process of its own, ended where the time ends."""
    watched = options.work / "watched.json"
    watched.unlink(missing_ok=True)
    start = [sys.executable, str(HERE / "eight_watched.py"), str(watched)]
    if stage == "make":
        more = [str(options.checkpoint), str(options.work), options.device]
        line = [*start, "make", *more, *(["tiny"] if options.tiny else [])]
    else:
        line = [*start, *words(stage, options)]
    log = options.work / f"{stage}.log"
    began = time.monotonic()
    with log.open("w") as said:
        process = subprocess.Popen(line, cwd=options.work, stdout=said, stderr=subprocess.STDOUT)
        try:
            code = process.wait(left)
        except subprocess.TimeoutExpired:
            process.terminate()  # it saves, and goes on from there next time
            try:
                code = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
    seconds = time.monotonic() - began
    text = log.read_text(errors="replace")
    row: dict[str, Any] = {
        "done": code == 0,
        "code": code,
        "seconds": seconds,
        "command": " ".join(["minipuzzle", *line[3:]]),
        "printed_gib": printed(text),
        "disk_bytes": size(options.work / "run"),
        "free_bytes": shutil.disk_usage(options.work).free,
        "said": text.replace("\r", "\n").splitlines()[-KEPT_LINES:],
    }
    return row | (json.loads(watched.read_text()) if watched.exists() else {})


def printed(text: str) -> dict[str, float]:
    """What a command said that it would take, GiB by memory."""
    found = re.findall(r"of (CPU|GPU) memory, ([0-9.]+) GiB", text)
    return {where: float(amount) for where, amount in found}


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def line(stage: str, row: dict[str, Any]) -> str:
    """A row in words."""
    gpu = f"GPU {row.get('gpu_allocated', 0) / GIB:.2f} GiB" if row.get("gpu_allocated") else ""
    said = ", ".join(
        f"{amount:.2f} printed ({where})" for where, amount in row["printed_gib"].items()
    )
    parts = [
        f"{row['seconds']:.1f} s" + ("" if row["done"] else f", NOT DONE (exit {row['code']})"),
        gpu,
        f"CPU {row.get('cpu_peak', 0) / GIB:.2f} GiB",
        said,
        f"disk {row['disk_bytes'] / 1e9:.2f} GB",
    ]
    return f"== {stage}: " + "; ".join(part for part in parts if part)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
