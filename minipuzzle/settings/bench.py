"""What is measured of several models in turn. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from minipuzzle.errors import UserError
from minipuzzle.settings import job
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.counts import token_count
from minipuzzle.settings.declare import needed, setting


def parse_batch(text: str) -> int | None:
    """A number of prompts; None for "auto". Raises: UserError for anything else."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12) or int(text) == 0:
        raise UserError(
            "This is no batch.",
            got=text,
            allowed="auto or a number above 0",
            next="Change bench.batch.",
        )
    return int(text)


@dataclass(frozen=True, kw_only=True)
class BenchCommand:
    """Measure time to the first token, tokens a second and memory of several models in turn."""

    SECTION: ClassVar[str] = "bench"
    PANEL: ClassVar[str] = "Workload"

    checkpoints: tuple[Path, ...] = needed(
        "Checkpoints, or folders with only a config.json (random weights). Ratios are to the"
        " first.",
        argument=True,
    )
    prompt: int = token_count(8192, "Tokens read, such as 65536 or 128k.", common=True)
    output: int = token_count(1024, "Tokens generated after them.", common=True)
    batch: int | None = setting(
        1,
        "Prompts at once; auto: as many as fit by the estimate.",
        unit="prompts",
        parse=parse_batch,
        common=True,
    )
    dtype: str = job.dtype()
    weights: Literal["auto", "fp8"] = setting(
        "auto", "Weights in memory: as job.dtype says, or blocks in a byte a value."
    )
    state: str = setting("auto", "Dtype of the SSM states: auto (fp32), fp32 or bf16.")
    seconds: float | None = setting(
        None,
        "About the most time for each phase of each model. The rest is taken in proportion.",
        unit="seconds",
        shown="no limit",
        within=(0.0, float("inf")),
    )
    plan: bool = setting(False, "Only predict the memory, on cards of 80 and 141 GB.", common=True)
    device: str = job.device()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
