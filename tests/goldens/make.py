"""Compare minipuzzle's numbers with the goldens, or write them.

    python -m tests.goldens.make --check|--write [PART ...]

Each part runs in a fork and an empty folder of its own, with one thread and with instructions
that every x86-64 server of the last ten years has. On the kind of machine that wrote a golden (the
first line of its file) all bits must be equal. On another kind, where sums may round otherwise,
numbers may differ by a thousandth and hashes are not compared.

The numbers of the whole demo are in README.md: tests/test_readme.py runs it and compares.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import math
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import files, parts

TEXTS = Path(__file__).parent / "text"
PINNED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_CBWR": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "132",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
}
FIRST = "made on"
HASHED = re.compile(r"(?<![.\w])[0-9a-f]{16,}\b")
APART = 1e-3


@contextmanager
def maker() -> Iterator[Callable[[str], tuple[str | None, float]]]:
    """A function that gives (the text of a part made now, None where it fails; the processor
    seconds that took): by forks of one process with pinned settings, which loads libraries once.
    """
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        environment = {**os.environ, **PINNED, "PYTHONPATH": str(files.ROOT), "HOME": folder}
        command = [sys.executable, "-m", "tests.goldens.make", "--show"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes) as process:

            def make(name: str) -> tuple[str | None, float]:
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
                seconds = float(process.stdout.readline())
                file = Path(folder) / f"{name}.txt"
                return file.read_text() if file.exists() else None, seconds

            yield make


def show() -> None:
    """Write NAME.txt here for each name that is read, by a fork: nothing of one is left for the
    next. Prints the processor seconds it took.
    """
    files.load_libraries()
    gc.freeze()
    for line in sys.stdin:
        name, before = line.strip(), os.times()
        target = Path(f"{name}.txt").absolute()
        Path(name).mkdir()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(2, 1)  # what a part prints is no answer
                os.chdir(name)
                lines = [f"{key} = {value}" for key, value in parts.PARTS[name]()]
                target.write_text("\n".join([f"{FIRST} {files.machine()}", *lines, ""]))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.waitpid(child, 0)
        now = os.times()
        print(sum(now[2:4]) - sum(before[2:4]), flush=True)


def differences(part: str, now: str) -> list[str]:
    """Lines of a diff between the golden of a part and ``now``; none where they agree."""
    then = (TEXTS / f"{part}.txt").read_text()
    if then.splitlines()[0] != now.splitlines()[0]:
        return _rough(then.splitlines()[1:], now.splitlines()[1:])
    return list(
        difflib.unified_diff(then.splitlines(), now.splitlines(), "golden", "now", n=0, lineterm="")
    )


def _rough(then: list[str], now: list[str]) -> list[str]:
    if len(then) != len(now):
        return [
            f"{len(then)} lines then, {len(now)} now",
            *difflib.unified_diff(then, now, n=0, lineterm=""),
        ]
    return [f"-{a}\n+{b}" for a, b in zip(then, now, strict=True) if not _near(a, b)]


def _near(then: str, now: str) -> bool:
    words = [HASHED.sub("#", line).split() for line in (then, now)]
    return len(words[0]) == len(words[1]) and all(map(_same, *words))


def _same(then: str, now: str) -> bool:
    try:
        a, b = (float(word.rstrip(",")) for word in (then, now))
        return math.isclose(a, b, rel_tol=APART, abs_tol=APART)
    except ValueError:
        return then == now


def main() -> None:
    """Exit with 1 where a part differs, and print its lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    for name in ("check", "write", "show"):
        what.add_argument(f"--{name}", action="store_true")
    parser.add_argument("part", nargs="*", choices=[*parts.PARTS, []])
    asked = parser.parse_args()
    names = asked.part or list(parts.PARTS)
    if asked.show:
        show()
        return
    wrong = 0
    with maker() as make:
        for part in names:
            text, _ = make(part)
            if text is None:
                wrong += 1
                continue
            if asked.write:
                (TEXTS / f"{part}.txt").write_text(text)
                print(f"{part}: {len(text.splitlines())} lines, {len(text):,} bytes")
                continue
            found = differences(part, text)
            print(f"{part}: {'equal' if not found else 'differs'}", *found, sep="\n")
            wrong += bool(found)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
