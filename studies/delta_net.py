"""What a hybrid of gated DeltaNet loses when it is cut to a share of its size, by what is cut.

    python studies/delta_net.py data --shared ../shared/data   # here: texts into .carry/moe
    minipuzzle pretrain studies/delta_teacher.yaml --run RUN/teacher
    python studies/delta_net.py prepare RUN --workers 8        # scores, searches
    python studies/delta_net.py run RUN --workers 8            # every row, budget, rate and seed
    python studies/delta_net.py table RUN                      # docs/results/delta_net.md's numbers

Rows: layers by the damage of their removal; FFN channels; heads, key groups of DeltaNet and KV
heads of attention by the same share, each with the heads that belong to it; our search over all of
these and the hidden size. Heads alone do not reach 50 %. Each is measured before and after the same
distillation (``cuts.py``). Texts: prose and code, by file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from cuts import Row, Select, Study, limit, narrowest, size, whole
from cuts_main import main

from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings, SearchSettings

BUDGETS = ("75%", "50%")
SCORED = "scores"
Forms = Callable[[Architecture], list[dict[str, int]]]


def by_sizes(forms: Forms) -> Select:
    """The best indices of some axes, in all blocks alike."""

    def select(teacher: Checkpoint, root: Path, budget: str, seed: int) -> Selection:
        scores = Scores.load(root / SCORED / "scores.safetensors")
        return narrowest(teacher, scores, forms(teacher.architecture), budget)

    return select


def channels(parent: Architecture) -> list[dict[str, int]]:
    """Widths of the FFN, in multiples of 32."""
    axis = "intermediate"
    return [{axis: count} for count in range(whole(parent, axis), 0, -32)]


def heads(parent: Architecture) -> list[dict[str, int]]:
    """Key groups one by one, and the same share of KV heads, rounded up and then down."""
    groups, kv = whole(parent, "key_groups"), whole(parent, "kv_heads")
    return [
        {"key_groups": count, "kv_heads": max(1, share)}
        for count in range(groups, 0, -1)
        for share in (-(-kv * count // groups), kv * count // groups)
    ]


def by_layers(teacher: Checkpoint, root: Path, budget: str, seed: int) -> Selection:
    """Those whose removal alone raises the loss least go first."""
    parent = teacher.architecture
    scores = Scores.load(root / SCORED / "scores.safetensors")
    assert scores.layers is not None
    gone: set[int] = set()
    for layer in np.argsort(scores.layers):
        gone.update(parent.layer_groups[layer])
        blocks = tuple(None if i in gone else {} for i in range(len(parent.blocks)))
        selection = Selection(blocks=blocks)
        if size(selection.student(parent), budget) <= limit(parent, budget):
            return selection
    raise ValueError(f"no layers at all do not reach {budget}")


def settings(parent: Architecture, budget: str, own: bool) -> SearchSettings:
    """A search over layers, FFN width, key groups, heads of values in each, KV heads, hidden size.
    Not over channels of keys and of values: each pair of them costs Triton minutes of tuning.
    """
    assert not own  # its files have one size for all blocks
    hidden = [str(parent.hidden * tenths // 10) for tenths in (8, 9)]
    return SearchSettings(
        budget=(budget,),
        method="solver",
        vary=(f"hidden={','.join(hidden)}",),
        kv_heads=True,
        uniform=True,
        candidates=24,
        validation_blocks=32,
        refine=48,
        top=1,
    )


STUDY = Study(
    script=Path(__file__),
    rows=(
        Row(name="search", budgets=BUDGETS),
        Row(name="heads", budgets=BUDGETS[:1], select=by_sizes(heads)),
        Row(name="ffn width", budgets=BUDGETS, select=by_sizes(channels)),
        Row(name="depth", budgets=BUDGETS, select=by_layers),
    ),
    budgets=BUDGETS,
    scores={SCORED: ScoreSettings(samples=512, block_samples=32, batch=16)},
    search=settings,
    told="hidden",
    rates=(1.5e-4, 5e-4),  # 5e-4 won everywhere over 1.5e-3 among experts, and was too high
)

if __name__ == "__main__":
    main(STUDY, __doc__)
