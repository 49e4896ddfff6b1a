"""What a mixture of experts loses when it is cut to a share of its parameters, by what is cut.

    python studies/moe.py data --shared ../shared/data         # here: texts into .carry/moe
    minipuzzle pretrain studies/moe_teacher.yaml --run RUN/teacher
    python studies/moe.py prepare RUN                          # scores, searches of one step
    python studies/moe.py run RUN --workers 4                  # every row, budget, rate and seed
    python studies/moe.py table RUN                            # docs/results/moe.md's numbers

Rows: experts removed by REAP, by frequency and at random; channels of each expert; fewer chosen
experts; our search over all axes at once, in one step, and in three with recovery between. Each is
measured before and after the same distillation (tokens, rates, text) on ``val``, which no choice
saw; a row's rate is the better of RATES on ``choice``, with the first seed. Texts: prose and code,
by file. Each result is a JSON file, so that a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import lzma
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from moe_rows import BUDGETS, RATES, ROWS, SEEDS, Case, prepare, run_case
from moe_table import write_table

from minipuzzle.data.documents import SEPARATOR

GROUPS = ("prose", "code")
CARRY = Path(".carry/moe")


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that runs one case."""

    case: Case
    process: subprocess.Popen[bytes]


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


def cases() -> list[Case]:
    """All, rates of the first seed first: the other seeds take the better one."""
    found = []
    for seed in SEEDS:
        for budget in BUDGETS:
            for row in ROWS:
                if row.cuts(budget):
                    rates = RATES if seed == SEEDS[0] else (0.0,)
                    found += [
                        Case(row=row.name, budget=budget, rate=rate, seed=seed) for rate in rates
                    ]
    return found


def run(root: Path, workers: int, tokens: int) -> None:
    """Every case that has no result yet, ``workers`` processes at a time on the one GPU."""
    for seed in SEEDS:  # the second seed's rate is chosen by the first one's results
        waiting = [c for c in cases() if c.seed == seed and not c.path(root).exists()]
        running: list[Worker] = []
        while waiting or running:
            while waiting and len(running) < workers:
                case = waiting.pop(0)
                command = [sys.executable, __file__, "one", str(root), "--tokens", str(tokens)]
                log = case.path(root).with_suffix(".log")
                log.parent.mkdir(parents=True, exist_ok=True)
                process = subprocess.Popen(
                    [*command, *case.words()], stdout=log.open("wb"), stderr=subprocess.STDOUT
                )
                running.append(Worker(case=case, process=process))
            done = running.pop(0)
            code = done.process.wait()
            print(f"{done.case}: {'done' if code == 0 else f'exit {code}'}", flush=True)


def main() -> None:
    """The parts, by name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("data", "prepare", "run", "one", "table"))
    parser.add_argument("root", type=Path, nargs="?", default=Path("moe-run"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--row")
    parser.add_argument("--budget")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    if options.part == "data":
        data(options.shared)
    elif options.part == "prepare":
        prepare(options.root)
    elif options.part == "run":
        run(options.root, options.workers, options.tokens)
    elif options.part == "one":
        case = Case(row=options.row, budget=options.budget, rate=options.rate, seed=options.seed)
        run_case(options.root, case, options.tokens)
    else:
        write_table(options.root)


if __name__ == "__main__":
    main()
