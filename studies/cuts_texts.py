"""The texts of a study of cuts, tokenised once: the teacher's training has done most of them."""

from __future__ import annotations

import lzma
from pathlib import Path

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.data.documents import SEPARATOR
from minipuzzle.settings import Data

LENGTH, GROUPS = 512, ("prose", "code")
TEXTS = Path(".carry/moe")


def data(shared: Path) -> None:
    """Training text as it is; calibration halved by document: for scores and for choices."""
    for group in GROUPS:
        for split in ("train", "val"):
            target = TEXTS / split / f"{group}.{split}.txt.xz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((shared / f"{group}.{split}.txt.xz").read_bytes())
        raw = lzma.decompress((shared / f"{group}.calib.txt.xz").read_bytes()).decode()
        documents = raw.split(SEPARATOR)
        for number, folder in enumerate(("calibration", "choice")):
            target = TEXTS / folder / f"{group}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(SEPARATOR.join(documents[number::2]))


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
    """A job on these texts."""
    data = Data(
        calibration=str(TEXTS / "calibration"), validation=str(TEXTS / "choice"), length=LENGTH
    )
    return mp.load(checkpoint, run=root / run, data=data)
