r"""Tied-LoRA against LoRA, VeRA and full training on tasks of real text and on pruned students.
Table: tied_lora_table.py.

    python studies/tied_lora_tasks.py --shared ../shared/data --out .carry/tied_lora
    python studies/tied_lora.py --data .carry/tied_lora --workers 12 --minutes 7 \
        --out tied_lora.json

For every task, rank and combination of trained factors: the learning rate by a sweep of three with
seed 0, chosen on one half of the test examples; then two more seeds at the best. What is reported
is the other half. LoRA and VeRA of PEFT run at our rates on the same model and data. Each result is
written when it is there; the same command goes on. Models: the embedded teacher for the tasks, its
83 % and 60 % students (widths and blocks of docs/results/embedded.md) for recovery by distillation.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")  # workers find what the first process tuned
os.environ.setdefault(
    "TORCHDYNAMO_DISABLE", "1"
)  # the losses' compiled kernels pay off at 131,072 words, not at 4,096
import torch

from minipuzzle.artifacts import read_json, write_json

TASKS = ("field", "source", "recall", "recovery 60%")
COMBINATIONS = ("lora", "tl5", "tl6", "vera", "tied:B", "tied:B,u,v", "tied:A,u,v")
RATES = (1e-3, 4e-3, 1.6e-2)
SCALES_RATES = (4e-3, 1.6e-2, 6.4e-2)
FULL_RATES = (2.5e-4, 1e-3, 4e-3)
LONG = 6
"""The recovery table's runs are this many times as long as the others."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. ``adapter`` is a combination, "peft lora", "peft vera" or "full"; rank 0
    for "full".
    """

    task: str
    adapter: str
    rank: int
    seed: int
    rate: float
    steps: int
    batch: int

    @property
    def key(self) -> str:
        """What the results are kept by."""
        return json.dumps(asdict(self), sort_keys=True)


def main() -> None:
    """Run what is not done yet and keep each result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(".carry/tied_lora"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=7.0, help="start nothing new after this")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ranks", default="8,2,32,128")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--combinations", default=";".join(COMBINATIONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=int, default=3)
    parser.add_argument(
        "--tests", type=int, default=1200, help="test examples at most, eight to a validation block"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    Bench(options).run()


class Bench:
    """The results so far and what is still to run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.tasks = [t for t in options.tasks.split(",") if t]
        self.ranks = [int(r) for r in options.ranks.split(",")]
        self.combinations = [c for c in options.combinations.split(";") if c]
        self.results: dict[str, Any] = {}
        if options.out.exists():
            self.results = {
                json.dumps(r["run"], sort_keys=True): r for r in read_json(options.out)["results"]
            }
            self.say(f"{len(self.results)} results are there already")
        work = Path(tempfile.gettempdir()) / "tied_lora_work"
        self.pool_arguments = (str(options.data), options.device, str(work), options.tests)

    def run(self) -> None:
        """Sweep, recovery, then the seeds; later phases take the rates that earlier ones chose."""
        from tied_lora_worker import prepare, start_worker

        facts = prepare(
            *self.pool_arguments
        )  # tokenises, cuts the students and tunes Triton's kernels once for all workers
        self.facts = facts | {"options": {k: str(v) for k, v in vars(self.options).items()}}
        self.say(f"prepared: {facts['device']}, students {facts['students']}")
        context = multiprocessing.get_context("spawn")
        counter = context.Value("i", 0)
        with ProcessPoolExecutor(
            self.options.workers, context, start_worker, (counter, *self.pool_arguments)
        ) as pool:
            for phase in (self.sweep, self.recovery, self.seeds, self.peft):
                if not self.work_through(pool, phase()):
                    self.say("out of time: give the same command again to go on")
                    return
        self.say("all done")

    def sweep(self) -> list[Run]:
        """Seed 0 at every rate."""
        runs = [
            self.new(task, "full", 0, rate=rate)
            for task in self.tasks
            for rate in FULL_RATES[-self.options.rates :]
        ]
        return runs + [
            self.new(task, adapter, rank, rate=rate)
            for rank in self.ranks
            for task in self.tasks
            for adapter in self.combinations
            for rate in (SCALES_RATES if adapter == "vera" else RATES)[: self.options.rates]
        ]

    def recovery(self) -> list[Run]:
        """The two students, longer: all weights, LoRA and Tied-LoRA."""
        if "recovery 60%" not in self.tasks:
            return []
        rank = 8 if 8 in self.ranks else self.ranks[0]
        pairs = [("full", 0), *((a, rank) for a in ("lora", "tl6") if a in self.combinations)]
        return [
            replace(
                self.new(
                    f"recovery {budget}",
                    adapter,
                    rank_,
                    seed=seed,
                    rate=self.best("recovery 60%", adapter, rank_),
                ),
                steps=self.options.steps * LONG,
            )
            for budget in ("83%", "60%")
            for adapter, rank_ in pairs
            for seed in range(self.options.seeds)
        ]

    def seeds(self) -> list[Run]:
        """The other seeds, at the best rates."""
        cells = [
            (task, adapter, rank)
            for rank in self.ranks
            for task in self.tasks
            for adapter in self.combinations
        ]
        cells = [(task, "full", 0) for task in self.tasks] + cells
        return [
            self.new(task, adapter, rank, seed=seed, rate=self.best(task, adapter, rank))
            for seed in range(1, self.options.seeds)
            for task, adapter, rank in cells
        ]

    def peft(self) -> list[Run]:
        """PEFT's LoRA and VeRA at our rates: all ranks with seed 0, rank 8 with every seed."""
        if not self.facts["peft"]:
            self.say("PEFT is not installed here: its rows are left out")
            return []
        return [
            self.new(task, f"peft {kind}", rank, seed=seed, rate=self.best(task, kind, rank))
            for kind in ("lora", "vera")
            if kind in self.combinations
            for seed in range(self.options.seeds)
            for rank in self.ranks
            for task in self.tasks
            if seed == 0 or rank == 8
        ]

    def new(self, task: str, adapter: str, rank: int, *, rate: float, seed: int = 0) -> Run:
        """A run of the usual length."""
        return Run(
            task=task,
            adapter=adapter,
            rank=rank,
            seed=seed,
            rate=rate,
            steps=self.options.steps,
            batch=self.options.batch,
        )

    def best(self, task: str, adapter: str, rank: int) -> float:
        """The rate that was best with seed 0 on the half that chooses."""
        found = [
            r
            for r in self.results.values()
            if r["run"]["seed"] == 0
            and r["run"]["steps"] == self.options.steps
            and (r["run"]["task"], r["run"]["adapter"], r["run"]["rank"]) == (task, adapter, rank)
        ]
        return float(max(found, key=lambda r: r["after"]["choice"])["run"]["rate"])

    def work_through(self, pool: ProcessPoolExecutor, runs: list[Run]) -> bool:
        """Whether all of ``runs`` are done now."""
        from tied_lora_worker import work_on

        todo = [run for run in runs if run.key not in self.results]
        pending: set[Future[dict[str, Any]]] = set()
        for run in todo:
            while len(pending) >= self.options.workers:
                pending = self.collect(pending)
            if self.seconds > 60 * self.options.minutes:
                break
            pending.add(pool.submit(work_on, run))
        while pending:
            pending = self.collect(pending)
        return all(run.key in self.results for run in runs)

    def collect(self, pending: set[Future[dict[str, Any]]]) -> set[Future[dict[str, Any]]]:
        """Keep what finished; what is still pending."""
        done, rest = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            result = future.result()
            self.results[json.dumps(result["run"], sort_keys=True)] = result
            run = result["run"]
            self.say(
                f"{run['task']:<13} {run['adapter']:<11} r{run['rank']:<4} seed {run['seed']} rate"
                f" {run['rate']:<6g} {result['before']['report']:.4f} ->"
                f" {result['after']['report']:.4f}  {result['seconds']:.1f} s"
            )
        write_json(
            self.options.out,
            {**self.facts, "seconds": self.seconds, "results": list(self.results.values())},
        )
        return rest

    @property
    def seconds(self) -> float:
        """Since the start of this call."""
        return time.monotonic() - self.started

    def say(self, text: str) -> None:
        """A line with the seconds since the start."""
        print(f"{self.seconds:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
