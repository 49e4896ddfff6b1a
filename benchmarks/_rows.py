"""Rows of a benchmark, each measured in a process of its own, so that none inherits memory or
compiled code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

MARK = "RESULT "


def in_process(script: str, row: str, *words: object) -> tuple[dict[str, Any], str]:
    """(what ``script --row ROW words`` told, or why it told nothing, whatever else it printed)."""
    command = [sys.executable, script, "--row", row, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    told = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    printed = "\n".join(line for line in lines if not line.startswith(MARK))
    if told:
        return json.loads(told[0]), printed
    reasons = [
        line for line in done.stderr.splitlines() if "Error" in line or line.startswith("got:")
    ]
    error = " ".join(reasons[-2:]) or f"exit {done.returncode}"
    return {"row": row, "error": error, "log": done.stderr[-3000:]}, printed


def tell(result: dict[str, Any]) -> None:
    """Tell the process that started this one."""
    print(MARK + json.dumps(result))
