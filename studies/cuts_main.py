"""The commands of a study of cuts: its texts, what its cases share, the cases side by side, the
table. Each part and each case is a process and ends in a file: a second call goes on where the
first one was killed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cuts import SEEDS, Case, Study
from cuts_cases import run_case
from cuts_parts import done, run_part, waves
from cuts_table import write_table
from cuts_texts import data


@dataclass(frozen=True, kw_only=True)
class Work:
    """A process to run, which is done when ``result`` is there."""

    name: str
    words: list[str]
    result: Path


def pooled(study: Study, root: Path, works: list[Work], workers: int) -> None:
    """Those without a result, so many ``workers`` at a time; whatever ends this ends them too."""
    waiting = [work for work in works if not work.result.exists()]
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    (root / "logs").mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                work = waiting.pop(0)
                log = (root / "logs" / f"{work.name}.log").open("wb")
                command = [sys.executable, str(study.script), *work.words]
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                running[work.name] = process, time.monotonic()
            time.sleep(0.2)
            for name, (process, started) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[name]
                    said = "done" if code == 0 else f"exit {code}"
                    print(f"{name}: {said}, {time.monotonic() - started:.0f} s", flush=True)
    finally:
        for process, _ in running.values():
            process.terminate()


def prepare(study: Study, root: Path, workers: int) -> None:
    """What all cases share."""
    for parts in waves(study):
        words = {part: ["part", str(root), "--name", part] for part in parts}
        pooled(
            study,
            root,
            [Work(name=done(root, p).stem, words=words[p], result=done(root, p)) for p in parts],
            workers,
        )
        if missing := [part for part in parts if not done(root, part).exists()]:
            raise SystemExit(f"not done: {', '.join(missing)}; their logs are in {root / 'logs'}")


def run(study: Study, root: Path, workers: int, tokens: int) -> None:
    """Every case; the second seed's rate is chosen by the first one's results."""
    for seed in SEEDS:
        options = ["one", str(root), "--tokens", str(tokens)]
        works = [
            Work(name=case.name, words=[*options, *case.words()], result=case.path(root))
            for case in study.cases(seed)
        ]
        pooled(study, root, works, workers)
        if any(not work.result.exists() for work in works):
            break


def main(study: Study, doc: str) -> None:
    """The parts, by name."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("data", "prepare", "part", "run", "one", "table"))
    parser.add_argument("root", type=Path, nargs="?", default=Path(f"{study.name}-run"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--name")
    parser.add_argument("--row")
    parser.add_argument("--budget")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    if options.part in ("prepare", "run"):  # so that what they started ends too
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.part == "data":
        data(options.shared)
    elif options.part == "prepare":
        prepare(study, options.root, options.workers)
    elif options.part == "part":
        run_part(study, options.root, options.name)
    elif options.part == "run":
        run(study, options.root, options.workers, options.tokens)
    elif options.part == "one":
        case = Case(row=options.row, budget=options.budget, rate=options.rate, seed=options.seed)
        run_case(study, options.root, case, options.tokens)
    else:
        write_table(study, options.root)
