"""What engines are told and given. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.settings import job
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, setting


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Say which engines load a checkpoint and why not, or write it as GGUF."""

    SECTION: ClassVar[str] = "export"
    PANEL: ClassVar[str] = "GGUF"

    checkpoint: Path | None = job.checkpoint("Checkpoint (default: the run's student).")
    gguf: Path | None = setting(
        None, "Write this GGUF file for llama.cpp.", unit="file", common=True
    )
    dtype: str = setting(
        "auto",
        "Dtype of its matrices: auto (that of the checkpoint), f32, f16, bf16 or q8_0; or a format"
        " that llama.cpp's llama-quantize, on PATH, makes: q4_k_m, iq3_xxs, ...",
        common=True,
    )
    samples: int = setting(
        128,
        "Blocks of text on which is measured what llama-quantize rounds by; 0: nothing is.",
        unit="blocks",
        within=(0, 10**9),
    )
    data: Data = group(Data(), only=("calibration", "length"))
    device: str = job.device()
    run: Path = job.run_directory()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
