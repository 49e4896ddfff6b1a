"""Stages of a session on a GPU machine, each in processes of its own and watched; a row each.

A part's rows lie in OUT/PART.json, written as they end, and in WORK/PART.json too: called again it
goes on with what is missing. A stage that the limit ended goes on by its own saves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GIB = 2**30
KEPT_LINES = 30
SAVES = 20
"""Seconds in which a stage that is stopped ends by itself."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The words of a command of ``minipuzzle`` (or ``make``, of watched.py), or with ``script`` of
    a Python script, in ``cards`` processes of torchrun.

    It is begun where ``least`` seconds are left, in ``folder`` (none: the work's). ``environment``
    is what watched.py reads besides; ``before`` and ``after`` prepare and clear its folders,
    ``found`` adds to the row of one that ended well, from that row and all that was printed.
    """

    name: str
    words: Sequence[object]
    cards: int = 1
    script: bool = False
    least: float = 10.0
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    found: Callable[[dict[str, Any], str], dict[str, Any]] = lambda row, said: {}


def through(
    stages: Sequence[Stage], part: str, work: Path, out: Path, ends: float, *, chain: bool = True
) -> None:
    """Run the stages of a ``part`` that are left, until ``ends`` (of time.monotonic). In a
    ``chain`` none begins after one that failed.
    """
    rows = known(part, work)
    for stage in (s for s in stages if not rows.get(s.name, {}).get("done")):
        left = ends - time.monotonic()
        if left < stage.least:
            break
        row = run(stage, work, left)
        before = rows.get(stage.name, {"calls": 0, "seconds": 0.0})
        row |= {"calls": before["calls"] + 1, "seconds": row["seconds"] + before["seconds"]}
        rows[stage.name] = row
        keep(rows, part, work, out)
        print(line(stage.name, row), flush=True)
        if not row["done"]:
            print("\n".join(row["said"]), flush=True)
            if chain:
                break
            continue
        stage.after()
    keep(rows, part, work, out)
    left_over = [s.name for s in stages if not rows.get(s.name, {}).get("done")]
    print(f"{part}, left: {', '.join(left_over) or 'nothing'}", flush=True)


def known(part: str, work: Path) -> dict[str, Any]:
    """The rows so far."""
    file = work / f"{part}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def keep(rows: dict[str, Any], part: str, *folders: Path) -> None:
    """Write the rows."""
    for folder in folders:
        (folder / f"{part}.json").write_text(json.dumps(rows, indent=1) + "\n")


def run(stage: Stage, work: Path, left: float) -> dict[str, Any]:
    """A row: the stage in processes of its own, ended where the time ends."""
    peaks = work / f"{stage.name}.peaks.json"
    for file in work.glob(f"{peaks.name}*"):
        file.unlink()
    stage.before()
    # after "--" torchrun takes no word for its own: --run would be one of its
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", stage.cards, "--"]
    watch = [] if stage.script else [str(HERE / "watched.py"), str(peaks)]
    words = [*watch, *map(str, stage.words)]
    line = [sys.executable, *map(str, launch if stage.cards > 1 else []), *words]
    log, began = work / f"{stage.name}.log", time.monotonic()
    with log.open("w") as said:
        process = subprocess.Popen(
            line,
            cwd=stage.folder or work,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **stage.environment},
        )
        stopped = False
        try:
            code = process.wait(left)
        except subprocess.TimeoutExpired:
            stopped = True
            process.terminate()  # it saves, exits with 0, and goes on from there next time
            try:
                code = process.wait(SAVES)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
    text = log.read_text(errors="replace")
    row: dict[str, Any] = {
        "done": code == 0 and not stopped,
        "code": code,
        "seconds": time.monotonic() - began,
        "command": " ".join(words[len(watch) :]),
        "cards": stage.cards,
        "printed_gib": printed(text),
        "disk_bytes": size(work / "run"),
        "free_bytes": shutil.disk_usage(work).free,
        "said": text.replace("\r", "\n").splitlines()[-KEPT_LINES:],
    }
    each = [json.loads(file.read_text()) for file in sorted(work.glob(f"{peaks.name}*"))]
    row |= each[0] if each else {}
    if stage.cards > 1:
        row["each"] = each
    return row | (stage.found(row, text) if row["done"] else {})


def printed(text: str) -> dict[str, float]:
    """What a command said that it would take, GiB by memory."""
    found = re.findall(r"of (CPU|GPU) memory, ([0-9.]+) GiB", text)
    return {where: float(amount) for where, amount in found}


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def line(stage: str, row: dict[str, Any]) -> str:
    """A row in words."""
    cards = row.get("each") or [row]
    allocated = [card["gpu_allocated"] / GIB for card in cards if "gpu_allocated" in card]
    said = ", ".join(
        f"{amount:.2f} printed ({where})" for where, amount in row["printed_gib"].items()
    )
    parts = [
        f"{row['seconds']:.1f} s" + ("" if row["done"] else f", NOT DONE (exit {row['code']})"),
        "GPU " + ", ".join(f"{gib:.2f}" for gib in allocated) + " GiB" if allocated else "",
        f"CPU {row['cpu_peak'] / GIB:.2f} GiB" if "cpu_peak" in row else "",
        f"{row['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in row else "",
        said,
        f"disk {row['disk_bytes'] / 1e9:.2f} GB",
    ]
    return f"== {stage}: " + "; ".join(part for part in parts if part)
