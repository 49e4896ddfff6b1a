"""Stage profile: run/latency.json, the times of every distinct block on this machine, and how well
they add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minipuzzle.arch import Architecture
from minipuzzle.cost.latency import LatencyTable
from minipuzzle.kernels import choose
from minipuzzle.profile import profile
from minipuzzle.progress import progress_bar
from minipuzzle.runs.device import pick_device, pick_dtype
from minipuzzle.runs.job import say
from minipuzzle.settings import Generation
from minipuzzle.space import LEVELS, Shape, bounds, shape_architecture
from minipuzzle.timing import Machine

CHECKED = 4
LARGEST_CHECKED = 4e9


def run_profile(
    parent: Architecture,
    works: Sequence[Generation],
    target: Path,
    *,
    device: str,
    dtype: str,
    widths: int,
) -> LatencyTable:
    """Measure blocks and whole models in turns and write the table to ``target``: ms, and how well
    sums of blocks agree.

    Raises: UserError for a device or dtype that is not there.
    """
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    machine = Machine(device=where, dtype=kind, kernels=choose(where))
    say(f"kernels: {machine.kernels.name} ({machine.kernels.reason})")
    checked = (
        some_students(parent, CHECKED, seed=0)
        if parent.parameters * kind.itemsize < LARGEST_CHECKED
        else []
    )
    with progress_bar("profile", (widths + len(checked)) * machine.turns, "turns") as bar:
        table = profile(parent, works, machine, widths=widths, checked=checked, advance=bar.advance)
    table.save(target)
    return table


def some_students(parent: Architecture, count: int, seed: int) -> list[Architecture]:
    """The parent and random legal students of it with global widths."""
    space = bounds(parent, LEVELS[1], multiple=8, mamba_heads=True)
    rng = np.random.default_rng(seed)
    found = [parent]
    while len(found) < count:
        shape = Shape(
            attention=int(rng.integers(space.attention[0], space.attention[1] + 1)),
            mlp=int(rng.integers(space.mlp[0], space.mlp[1] + 1)),
            mamba=int(rng.integers(space.mamba[0], space.mamba[1] + 1)),
            intermediate=int(rng.choice(space.intermediate)),
            heads=int(rng.choice(space.heads)),
            hidden=parent.hidden,
        )
        found.append(shape_architecture(parent, shape))
    return found
