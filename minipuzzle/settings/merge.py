"""Where an adapter goes. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from minipuzzle.settings import job
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.declare import needed, setting

Form = Literal["checkpoint", "peft", "compact"]


@dataclass(frozen=True, kw_only=True)
class MergeCommand:
    """Write W + Delta W as a checkpoint, or the adapter alone for PEFT and vLLM."""

    SECTION: ClassVar[str] = "merge"
    PANEL: ClassVar[str] = "Result"

    checkpoint: Path = needed("The checkpoint that the adapter is for.", argument=True)
    adapter: Path = needed(
        "An adapter.safetensors of minipuzzle, or a folder of PEFT.", argument=True
    )
    target: Path = setting(
        Path("merged"), "Folder to write.", flag="out", unit="folder", common=True
    )
    form: Form = setting(
        "checkpoint",
        "What to write: a whole checkpoint, the LoRA of PEFT, or a compact file.",
        flag="export",
        common=True,
    )
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
