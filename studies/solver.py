"""Our solver against run_mip of nvidia-modelopt on the same instances. Result:
docs/results/solver.md.

    python studies/solver.py --out docs/results/solver.json

Instances resemble a search: each block has sizes from whole to gone, damage grows as it shrinks
(steeper the less is left), and parameters, memory and time fall, the last two not in proportion.
``steps`` has even steps, as FFN widths have; ``small`` is the same with damages 1000 times
smaller, as a KL or an MSE may be; ``noise`` draws every number by itself, which no model gives but
which is hard. Limits lie at 0.5 to 0.9 of the whole. Choices are priced again here: an objective
counts only if every limit holds. Both get the same time and run one after the other, at most
--seconds of wall time an instance; times are wall and CPU seconds of the call (CBC's and HiGHS'
included), model building included, imports not. On a busy machine compare the CPU seconds.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from os import getloadavg
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from peer_environments import call, environment
from rich.console import Console
from solver_table import SMALL, summarise, table

from minipuzzle.artifacts import write_json
from minipuzzle.bars import progress_bar
from minipuzzle.errors import UserError
from minipuzzle.nas.program import Instance
from minipuzzle.nas.solve import solve

SIZES = ((7, 4, 1, 5), (52, 7, 1, 5), (118, 17, 3, 3), (118, 20, 3, 3), (118, 200, 3, 2))
"""(blocks, choices, budgets, seeds); the last ones take minutes each."""
NAMES = ("parameters", "memory", "time")


@dataclass(frozen=True, kw_only=True)
class Case:
    """An instance and what it is called by."""

    kind: str
    blocks: int
    choices: int
    budgets: int
    seed: int
    instance: Instance


def main() -> None:
    """Solve everything with both and write JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=Path, default=Path("/tmp/venvs"))
    parser.add_argument("--kinds", nargs="+", default=["steps", "noise", "small"])
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="most for one instance, both solvers"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    groups = [
        [make_case(kind, *size, seed) for seed in range(seeds)]
        for *size, seeds in SIZES
        for kind in options.kinds
    ]
    python = environment(options.envs, "modelopt")
    rows: list[dict[str, Any]] = []
    with progress_bar("solver: instances", sum(map(len, groups)), "instances") as bar:
        for group in groups:
            rows += compare(group, python, options.seconds)
            bar.advance(len(group))
            summary = summarise(rows)
            write_json(
                options.out,
                {**machine(), "seconds_given": options.seconds, "summary": summary, "rows": rows},
            )
    Console(width=160).print(table(summary))


def make_case(kind: str, blocks: int, choices: int, budgets: int, seed: int) -> Case:
    """An instance in which keeping everything breaks every limit and the smallest choices keep
    them.
    """
    rng = np.random.default_rng([seed, blocks, choices, kind == "noise"])
    whole = rng.integers(10**7, 10**9, (blocks, budgets)) * np.array([1.0, 2e-6, 1e-8])[:budgets]
    left = np.linspace(1, 0, choices)
    damage, costs = [], []
    for block in range(blocks):
        if kind != "noise":
            harm = (
                np.exp(rng.normal(0, 1.5))
                * (1 - left) ** rng.uniform(1.2, 4)
                * (SMALL if kind == "small" else 1)
            )
            cost = whole[block] * np.maximum(left[:, None], 0) ** rng.uniform(
                [1, 0.6, 0.6][:budgets], [1, 1, 1][:budgets]
            )
        else:
            harm, cost = rng.random(choices), whole[block] * rng.random((choices, budgets))
            harm[-1], cost[-1] = 1, 0
        damage.append(harm)
        costs.append(cost)
    limits = np.sum([c[0] for c in costs], axis=0) * rng.uniform(0.5, 0.9, budgets)
    if kind == "noise":  # the first choice is any choice: limits of half the mean bind
        limits = np.sum([c.mean(axis=0) for c in costs], axis=0) * rng.uniform(0.3, 0.6, budgets)
    instance = Instance(
        damage=tuple(damage), costs=tuple(costs), limits=limits, names=NAMES[:budgets]
    )
    return Case(
        kind=kind, blocks=blocks, choices=choices, budgets=budgets, seed=seed, instance=instance
    )


def compare(cases: list[Case], python: Path, seconds: float) -> list[dict[str, Any]]:
    """Both solvers on some instances: ours on all of them, then theirs on all in one process of
    their own.
    """
    ours = [our_solution(case.instance, seconds) for case in cases]
    asked = [
        {
            "damage": [d.tolist() for d in case.instance.damage],
            "costs": [c.tolist() for c in case.instance.costs],
            "limits": case.instance.limits.tolist(),
        }
        for case in cases
    ]
    limit = 60 + 2 * seconds * len(cases)
    answer = call(python, "modelopt_mip", {"instances": asked, "seconds": seconds}, seconds=limit)
    failed = {"choices": None, "seconds": None, "cpu_seconds": None, "error": answer.get("error")}
    theirs = answer.get("solutions", [failed] * len(cases))
    return [
        {
            "kind": case.kind,
            "blocks": case.blocks,
            "choices": case.choices,
            "budgets": case.budgets,
            "seed": case.seed,
            "ours": {**our, **priced(case.instance, our.pop("choices"))},
            "modelopt": {**their, **priced(case.instance, their.pop("choices"))},
        }
        for case, our, their in zip(cases, ours, theirs, strict=True)
    ]


def our_solution(instance: Instance, seconds: float) -> dict[str, Any]:
    """Our choices, or the error where nothing was found in time, and what they took."""
    cpu, wall = time.process_time(), time.monotonic()
    choices, gap, error = None, None, None
    try:
        found = solve(instance, seconds=seconds)
        choices, gap = list(found.choices), found.gap
    except UserError as raised:
        error = str(raised)
    return {
        "choices": choices,
        "gap": gap,
        "error": error,
        "seconds": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def priced(instance: Instance, choices: list[int] | None) -> dict[str, Any]:
    """Damage of some choices and by how much, relatively, they exceed a limit (0: all hold); None
    where there are none.
    """
    if choices is None:
        return {"damage": None, "excess": None}
    damage = float(sum(d[j] for d, j in zip(instance.damage, choices, strict=True)))
    costs = np.sum([c[j] for c, j in zip(instance.costs, choices, strict=True)], axis=0)
    return {"damage": damage, "excess": float(max(0.0, (costs / instance.limits - 1).max()))}


def machine() -> dict[str, Any]:
    """When and on what this ran."""
    model = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": f"{len(model)} x {model[0] if model else '?'}",
        "load": getloadavg()[0],
        "python": platform.python_version(),
        "scipy": scipy.__version__,
        "commit": commit,
    }


if __name__ == "__main__":
    main()
