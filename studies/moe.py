"""What a mixture of experts loses when it is cut to a share of its parameters, by what is cut.

    python studies/moe.py data --shared ../shared/data         # here: texts into .carry/moe
    minipuzzle pretrain studies/moe_teacher.yaml --run RUN/teacher
    python studies/moe.py prepare RUN --workers 8              # scores, searches of one step
    python studies/moe.py run RUN --workers 8                  # every row, budget, rate and seed
    python studies/moe.py table RUN                            # docs/results/moe.md's numbers

Rows: experts removed by REAP, by frequency and at random; channels of each expert; fewer chosen
experts; our search over all axes at once, in one step, and in three with recovery between. Each is
measured before and after the same distillation (tokens, rates, text) on ``val``, which no choice
saw; a row's rate is the better of RATES on ``choice``, with the first seed. Texts: prose and code,
by file. Each part and each case is a process and ends in a file: a second call goes on where the
first one was killed.
"""

from __future__ import annotations

import argparse
import lzma
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from moe_rows import BUDGETS, RATES, ROWS, SEEDS, Case, run_case, searches
from moe_search import done, run_part, waves
from moe_table import write_table

from minipuzzle.data.documents import SEPARATOR

GROUPS = ("prose", "code")
CARRY = Path(".carry/moe")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A process to run, which is done when ``result`` is there."""

    name: str
    words: list[str]
    result: Path


def data(shared: Path) -> None:
    """Training text as it is; calibration halved by document: for scores and for choices."""
    for group in GROUPS:
        for split, folder in (("train", "train"), ("val", "val")):
            target = CARRY / folder / f"{group}.{split}.txt.xz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((shared / f"{group}.{split}.txt.xz").read_bytes())
        raw = lzma.decompress((shared / f"{group}.calib.txt.xz").read_bytes()).decode()
        documents = raw.split(SEPARATOR)
        for number, folder in enumerate(("calibration", "choice")):
            target = CARRY / folder / f"{group}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(SEPARATOR.join(documents[number::2]))


def cases(seed: int) -> list[Case]:
    """All of a seed: rates with the first one, the others take the better rate."""
    rates = RATES if seed == SEEDS[0] else (0.0,)
    return [
        Case(row=row.name, budget=budget, rate=rate, seed=seed)
        for row in ROWS
        for budget in BUDGETS
        if budget in row.budgets
        for rate in rates
    ]


def pooled(root: Path, works: list[Work], workers: int) -> None:
    """Those without a result, so many ``workers`` at a time; whatever ends this ends them too."""
    waiting = [work for work in works if not work.result.exists()]
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    (root / "logs").mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                work = waiting.pop(0)
                log = (root / "logs" / f"{work.name}.log").open("wb")
                command = [sys.executable, __file__, *work.words]
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


def prepare(root: Path, workers: int) -> None:
    """What all cases share."""
    for parts in waves(searches()):
        words = {part: ["part", str(root), "--name", part] for part in parts}
        pooled(
            root,
            [Work(name=done(root, p).stem, words=words[p], result=done(root, p)) for p in parts],
            workers,
        )
        if missing := [part for part in parts if not done(root, part).exists()]:
            raise SystemExit(f"not done: {', '.join(missing)}; their logs are in {root / 'logs'}")


def run(root: Path, workers: int, tokens: int) -> None:
    """Every case; the second seed's rate is chosen by the first one's results."""
    for seed in SEEDS:
        options = ["one", str(root), "--tokens", str(tokens)]
        works = [
            Work(name=case.name, words=[*options, *case.words()], result=case.path(root))
            for case in cases(seed)
        ]
        pooled(root, works, workers)
        if any(not work.result.exists() for work in works):
            break


def main() -> None:
    """The parts, by name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("data", "prepare", "part", "run", "one", "table"))
    parser.add_argument("root", type=Path, nargs="?", default=Path("moe-run"))
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
        prepare(options.root, options.workers)
    elif options.part == "part":
        run_part(options.root, options.name)
    elif options.part == "run":
        run(options.root, options.workers, options.tokens)
    elif options.part == "one":
        case = Case(row=options.row, budget=options.budget, rate=options.rate, seed=options.seed)
        run_case(options.root, case, options.tokens)
    else:
        write_table(options.root)


if __name__ == "__main__":
    main()
