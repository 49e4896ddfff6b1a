"""The texts of studies/moe.py, tokenised once: the teacher's training has done most of them."""

from __future__ import annotations

from pathlib import Path

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.settings import Data

LENGTH = 512
TEXTS = Path(".carry/moe")


def plain_name(text: str) -> str:
    """For a file: a GPU machine brings back no names with odd characters."""
    return text.replace("%", "").replace("=", "-").replace(" ", "_")


def texts(name: str, root: Path) -> TokenBlocks:
    """A text; of those that are measured each file is a domain."""
    return load_blocks(
        TEXTS / name,
        Tokenizer.load(embedded.teacher_path()),
        block_length=LENGTH,
        cache=root / "teacher" / "tokens",
        by_file=name != "train",
    )


def job_of(root: Path, checkpoint: Path, run: str) -> mp.Job:
    """A job on the texts of this study."""
    data = Data(
        calibration=str(TEXTS / "calibration"), validation=str(TEXTS / "choice"), length=LENGTH
    )
    return mp.load(checkpoint, run=root / run, data=data)
