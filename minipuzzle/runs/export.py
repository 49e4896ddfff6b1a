"""A checkpoint as a GGUF file, in llama-quantize's formats rounded by what its matrices read."""

from __future__ import annotations

from pathlib import Path

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.export.gguf import Exported, export_gguf
from minipuzzle.export.inputs import squared_inputs
from minipuzzle.export.llama_quantize import FORMATS, Importance, tool
from minipuzzle.progress import SILENT, Progress
from minipuzzle.runs.calibrated import calibrated
from minipuzzle.settings import Data


def run_export(
    checkpoint: Checkpoint,
    target: Path,
    dtype: str = "auto",
    *,
    data: Data = Data(),
    samples: int = 128,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Exported:
    """As ``export_gguf``; llama-quantize's formats read ``samples`` blocks of the calibration text
    first, where it is not 0.

    Raises: as ``export_gguf``, and UserError where there is no calibration text.
    """
    importance = None
    if dtype in FORMATS and samples:
        tool()
        text = calibrated(checkpoint, data, samples, device)
        blocks, length = text.tokens.shape
        squares = squared_inputs(text.model, text.batches())
        importance = Importance(squares=squares, blocks=blocks, length=length)
    return export_gguf(checkpoint, target, dtype, progress, importance)
