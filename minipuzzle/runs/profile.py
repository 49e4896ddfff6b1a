"""Stage profile: run/latency.json, the times of every distinct block on this machine, and how well
they add up.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minipuzzle.arch import Architecture
from minipuzzle.bars import progress_bar
from minipuzzle.cost.latency import LatencyTable
from minipuzzle.kernels import choose
from minipuzzle.profile import forms, profile
from minipuzzle.runs.device import pick_device, pick_dtype
from minipuzzle.settings import Generation, SearchSettings
from minipuzzle.space import Shape, bounds, levels, shape_architecture
from minipuzzle.timing import Machine

log = logging.getLogger(__name__)

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
    log.info(f"kernels: {machine.kernels.describe(parent.blocks)}")
    checked = (
        some_students(parent, CHECKED, seed=0)
        if parent.parameters * kind.itemsize < LARGEST_CHECKED
        else []
    )
    models = len(forms(parent, widths)) + len(checked)
    with progress_bar("profile", models * machine.turns, "turns") as bar:
        table = profile(parent, works, machine, widths=widths, checked=checked, progress=bar)
    table.save(target)
    return table


def some_students(parent: Architecture, count: int, seed: int) -> list[Architecture]:
    """The parent and random legal students of it with global widths."""
    space = bounds(parent, levels([])[1], SearchSettings(multiple=8, mamba_heads=True))
    rng = np.random.default_rng(seed)
    found = [parent]
    while len(found) < count:
        counts = {
            kind: int(rng.integers(low, high + 1)) for kind, (low, high) in space.counts.items()
        }
        sizes = {axis: int(rng.choice(sizes)) for axis, sizes in space.sizes.items()}
        found.append(shape_architecture(parent, Shape.of(counts, sizes, parent.hidden)))
    return found
