"""The format that the matrices of a checkpoint are written in. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from minipuzzle.errors import UserError
from minipuzzle.settings import job
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, needed, setting

NumberFormat = Literal["auto", "fp8", "fp8-static", "nvfp4", "mxfp4", "int4"]
Rounding = Literal["nearest", "gptq"]
CacheFormat = Literal["none", "fp8"]
GROUPS = (32, 64, 128)
"""Columns that may share a scale in INT4: what engines have kernels for."""


@dataclass(frozen=True, kw_only=True)
class QuantizeCommand:
    """Write the matrices of a checkpoint in 8 or 4 bits, as engines load them."""

    SECTION: ClassVar[str] = "quantize"
    PANEL: ClassVar[str] = "Result"

    checkpoint: Path = needed("Checkpoint in BF16, FP16 or FP32.", argument=True)
    format: NumberFormat = setting(
        "auto",
        "Format of the matrices of blocks; auto: as search.bits chose for each block, else fp8.",
        common=True,
    )
    rounding: Rounding = setting(
        "nearest",
        "How codes of 4 bits are chosen: the nearest ones, or gptq (llm-compressor's) on a text.",
        common=True,
    )
    kv: CacheFormat = setting(
        "none",
        "Scales of keys and values, by which engines cache them in that format: fp8, on a text.",
        common=True,
    )
    samples: int = setting(
        128,
        "Blocks of text on which fp8-static and gptq measure what each matrix reads, and"
        " quantize.kv what is cached.",
        unit="blocks",
        within=(1, 10**9),
    )
    data: Data = group(Data(), only=("calibration", "length"))
    group: int = setting(
        128, "Columns that share a scale in int4: 32, 64 or 128.", unit="columns", common=True
    )
    target: Path = setting(
        Path("quantised"), "Folder to write.", flag="out", unit="folder", common=True
    )
    device: str = job.device()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
        if self.group not in GROUPS:
            raise UserError(
                "Unknown size of a group.",
                got=self.group,
                allowed=", ".join(map(str, GROUPS)),
                next="Change quantize.group.",
            )
