"""How the next token is chosen. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.settings import job
from minipuzzle.settings.bounds import SEEDS, settle
from minipuzzle.settings.declare import group, needed, setting


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """``temperature`` divides the logits, 0 takes the likeliest token. Of the rest only the
    likeliest tokens that together have at least ``top_p`` of the probability may be drawn (nucleus
    sampling, arXiv:1904.09751).

    Raises: UserError for a temperature below 0, a ``top_p`` outside of (0, 1] or a seed outside of
    [0, 2^63).
    """

    SECTION: ClassVar[str] = "generate"
    PANEL: ClassVar[str] = "Sampling"

    temperature: float = setting(
        0.0,
        "Divides the logits; 0 takes the likeliest token each time.",
        within=(0.0, 1e308),
        common=True,
    )
    top_p: float = setting(
        1.0,
        "Draw only from the likeliest tokens that together have this probability.",
        unit="share",
        within=(1e-30, 1.0),
        common=True,
    )
    seed: int = setting(0, "Seed of the draws.", within=SEEDS, common=True)

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class GenerateCommand:
    """Continue a text, shown as it comes: does the pruned model still speak?"""

    SECTION: ClassVar[str] = "generate"
    PANEL: ClassVar[str] = "Sampling"

    words: tuple[str, ...] = needed(
        "A prompt, after a checkpoint or alone (then the run's student continues it).",
        unit="[CHECKPOINT] PROMPT",
        argument=True,
    )
    tokens: int = setting(128, "Most tokens to generate.", unit="tokens", common=True)
    sampling: Sampling = group(Sampling())
    dtype: str = job.dtype()
    run: Path = job.run_directory()
    device: str = job.device()
