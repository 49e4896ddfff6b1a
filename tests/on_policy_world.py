"""Run by tests/test_on_policy_parallel.py in each of several processes: steps on the student's own
completions. FOLDER/RUN.RANK.json has the rows that a process trained on, by step.
"""

import gc
import json
import sys
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from world import DEVICE, distil

from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM
from minipuzzle.ranks import ranks
from minipuzzle.training import distillation, loop, on_policy, parallel

PROMPTS = [np.arange(3, 3 + n) for n in (2, 5, 3, 7, 4)]
STEPS = 6
FEW = {"batch": 1, "tokens": 32 * STEPS}


class Recorded(on_policy.OnPolicy):
    """Keeps the completions of each step, and sees that no copy of the model outlives it."""

    def batch(self, model, step, settings, ranks):
        copies, make = [], on_policy.whole

        def whole(*args):
            made = make(*args)
            copies.append(weakref.ref(made))
            return made

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(on_policy, "whole", whole)
            gc.disable()
            parts, lengths = super().batch(model, step, settings, ranks)
            gc.enable()
        assert (copies[0]() is None) == (ranks.world > 1)
        rows = [
            [row[kinds == kind].tolist() for kind in (0, 1)]
            for part in parts
            for row, kinds in zip(*part, strict=True)
        ]
        RECORD[step] = {"rows": rows, "lengths": lengths}
        return parts, lengths


RECORD = {}


def made(share: float, teacher: HybridLM) -> Recorded:
    return Recorded(
        share=share,
        prompts=PROMPTS,
        length=9,
        ends={7, 8, 9},
        objective=distillation(teacher, "reverse-kl", spans=True),
        identity="x",
    )


def written(folder, group, run, *, share=0.5, **changes):
    """Distil in FOLDER/RUN with a row of the log each step."""
    RECORD.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY_STEPS", 1)
        distil(folder, group, run, on_policy=partial(made, share), **changes)
    name = folder / f"{run}.{group.rank}.json"
    before = json.loads(name.read_text()) if name.exists() else {}
    name.write_text(json.dumps(before | RECORD))


def two(folder):
    with ranks(DEVICE) as group:
        written(folder, group, "two")
        written(folder, group, "all", share=1.0)  # the first forward pass is a completion's
        written(folder, group, "hsdp", replicas=group.world)
        written(folder, group, "micro", micro_batch=2, activation_checkpointing="on")
        written(folder, group, "context", context_parallel=2)
        written(folder, group, "few", context_parallel=2, **FEW)  # the second writes nothing
        written(folder, group, "adapter", adapter="tl6")
        written(folder, group, "resumed", stop_after=2)
        written(folder, group, "resumed")
        written(folder, group, "moved", stop_after=2)
        with pytest.MonkeyPatch.context() as patch:
            if group.rank == 1:
                patch.setattr(parallel, "available_bytes", lambda: 1000)
            with pytest.raises(UserError, match="do not fit one device"):
                written(folder, group, "large")


def three(folder):
    with ranks(DEVICE) as group:
        written(folder, group, "three")


def cards(folder):
    """Of tests/gpu/test_on_policy_gpu.py."""
    with ranks(DEVICE) as group:
        written(folder, group, "two")
        written(folder, group, "resumed", stop_after=2)
        written(folder, group, "resumed")


if __name__ == "__main__":
    cards(Path(sys.argv[1]))
