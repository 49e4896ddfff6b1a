"""Run the whole demo and compare it with README.md and the record, or write the record.

    python tests/demo_record.py --check     # make demo-check
    python tests/demo_record.py --write     # then copy what it prints into README.md

A demo takes minutes, so that no test runs one whole: tests/test_demo.py compares README.md with the
record and computes parts of it again (docs/decisions/demo-record.md).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from goldens import files
from shown import missing, plain, shown

RECORD = Path(__file__).with_suffix(".json")
README = files.ROOT / "README.md"
COMMAND = "minipuzzle demo"
STEP = 10
"""The first step of a short run whose line is in its log."""


def run(folder: Path) -> list[str]:
    """The lines that a whole demo prints, run in ``folder`` on the CPU by a process of its own."""
    words = ["-m", "minipuzzle", "demo", "--run", str(folder), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(files.ROOT), "COLUMNS": "132"}
    done = subprocess.run(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()


def recorded(folder: Path, printed: list[str]) -> dict[str, Any]:
    """What is kept of a demo's run directory: the winner's selection and what was measured."""
    search, measured = (json.loads((folder / f"{n}.json").read_text()) for n in ("search", "eval"))
    winner = json.loads((folder / "run.json").read_text())["stages"]["distill"]["winner"]
    first = next(i for i, line in enumerate(printed) if line.startswith("parent "))
    with (folder / "distill" / f"{winner}-short" / "log.csv").open() as log:
        step = next(row for row in csv.DictReader(log) if row["step"] == str(STEP))
    return {
        "machine": machine(),
        "printed": plain(printed[first:]),
        "winner": winner,
        "selection": packed(search["selections"][winner]),
        "tensors": dict(files.all_tensors("cut", folder / "candidates" / winner))["cut"],
        f"step {STEP} of the short run": {
            name: float(step[name]) for name in ("loss", "teacher_entropy", "grad_norm")
        },
        "eval": {**measured, "rows": [{**row, "path": row["name"]} for row in measured["rows"]]},
    }


def machine() -> str:
    """What decides over the last bits of a sum, the number of threads included."""
    import torch

    return f"{files.machine()}, {torch.get_num_threads()} threads"


def packed(selection: dict[str, Any]) -> dict[str, Any]:
    """A selection of search.json with the kept indices of an axis as the bits of a hex number."""
    blocks = [
        block and {axis: f"{sum(1 << i for i in kept):x}" for axis, kept in block.items()}
        for block in selection["blocks"]
    ]
    return {**selection, "blocks": blocks}


def unpacked(selection: dict[str, Any]) -> dict[str, Any]:
    """The selection that was ``packed``."""
    blocks = [
        block and {axis: _bits(of) for axis, of in block.items()} for block in selection["blocks"]
    ]
    return {**selection, "blocks": blocks}


def _bits(number: str) -> list[int]:
    value = int(number, 16)
    return [i for i in range(value.bit_length()) if value >> i & 1]


def main() -> None:
    """Exit with 1 where a demo is not what README.md shows or what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true")
    what.add_argument("--write", action="store_true")
    parser.add_argument("--run", type=Path, help="a run directory to go on in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        folder = options.run or Path(name)
        printed = run(folder)
        print(*printed, sep="\n")
        now = recorded(folder, printed)
    if options.write:
        RECORD.write_text(json.dumps(now, indent=1) + "\n")
        return
    then = json.loads(RECORD.read_text())
    wrong = missing(dict(shown(README))[COMMAND], printed) + missing(then["printed"], printed)
    if then["machine"] == now["machine"]:
        wrong += [name for name in then if name != "printed" and then[name] != now[name]]
    print(*(f"not so: {line}" for line in wrong), sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
