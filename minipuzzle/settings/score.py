"""What scores see and measure. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.identity import Plain, changed
from minipuzzle.registry import ESTIMATORS, EXPERT_ESTIMATORS, METRICS
from minipuzzle.settings import job
from minipuzzle.settings.bits import parse_bits
from minipuzzle.settings.bounds import BATCHES, SEEDS, settle
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, setting

OLD_BLOCK_SAMPLES = 128
"""The default until 2026-11-30."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What scores see and measure: the papers use 1024 samples for widths and 128 for blocks
    (arXiv:2504.03624), of which half pick the same models (docs/decisions/block-samples.md).

    ``estimator``, one of ``registry.ESTIMATORS``, scores channels and heads, ``experts``, one of
    ``EXPERT_ESTIMATORS``, the experts of a mixture; ``metric``, one of
    ``METRICS``, measures what removing or narrowing a block does to the model's end. ``curves``
    also narrows each block, ``bits`` rounds its matrices (``settings.bits``); ``iterative`` removes
    that many blocks one after the other, scoring again after each (0: all scores from the whole
    model).
    """

    SECTION: ClassVar[str] = "score"
    PANEL: ClassVar[str] = "Scores"

    samples: int = setting(
        1024,
        "Blocks of text that score FFN channels and heads.",
        unit="blocks",
        within=(1, 10**9),
        common=True,
    )
    block_samples: int = setting(
        64,
        "Blocks of text on which each block is removed.",
        unit="blocks",
        within=(1, 10**9),
        common=True,
    )
    batch: int = setting(8, "Blocks of text at once.", unit="blocks", within=BATCHES)
    activations: float = setting(
        16.0,
        "GiB of hidden states held at once, or fewer where they do not fit: the more, the fewer"
        " times the weights are read.",
        unit="GiB",
        within=(0.0, 1e6),
    )
    estimator: str = setting(
        "mixed", "How channels and heads are scored.", names=(ESTIMATORS,), common=True
    )
    experts: str = setting(
        "reap", "How experts of a mixture are scored.", names=(EXPERT_ESTIMATORS,)
    )
    metric: str = setting(
        "mse", "How the damage of removing a block is measured.", names=(METRICS,)
    )
    curves: bool = setting(True, "Also narrow each block to some sizes: its damage curve.")
    bits: str = setting(
        "",
        "Also measure each block in these formats, for search.bits: 4..8, or nvfp4,fp8.",
        unit="formats",
        common=True,
    )
    iterative: int = setting(
        0,
        "Remove this many blocks one after the other, and score again after each.",
        unit="blocks",
        within=(0, 10**6),
    )
    seed: int = setting(0, "Seed of what estimators draw.", within=SEEDS)

    def __post_init__(self) -> None:
        settle(self)
        ESTIMATORS.check(self.estimator)
        EXPERT_ESTIMATORS.check(self.experts)
        METRICS.check(self.metric)
        parse_bits(self.bits)

    def identity(self) -> dict[str, Plain]:
        """What finished scores are compared by: not how much is held while they are made. Those
        that name no ``block_samples`` are of OLD_BLOCK_SAMPLES.
        """
        said = changed(self, without=("activations", "block_samples"))
        old = self.block_samples == OLD_BLOCK_SAMPLES
        return said if old else said | {"block_samples": self.block_samples}


@dataclass(frozen=True, kw_only=True)
class ScoreCommand:
    """Score every block, FFN channel and head on calibration text, with one block in memory at a
    time.
    """

    checkpoint: Path | None = job.checkpoint()
    data: Data = group(
        Data(),
        only=("calibration", "length", "loss_on", "seed"),
        flags={"calibration": "data", "seed": "data-seed"},
    )
    settings: ScoreSettings = group(ScoreSettings())
    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()
