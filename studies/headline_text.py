"""Text of studies/headline.py: the validation documents in halves, small texts for --tiny."""

from __future__ import annotations

import hashlib
from pathlib import Path

from minipuzzle import embedded
from minipuzzle.data.documents import SEPARATOR, read_documents
from minipuzzle.data.files import data_files

HERE = Path(__file__).parent


def split_validation(source: Path, target: Path) -> None:
    """Halves of the validation documents by their hash, in folders "choose" and "report"."""
    if (target / "report").exists():
        return
    for file in data_files(source):
        halves: dict[str, list[str]] = {"choose": [], "report": []}
        for document in read_documents(file):
            odd = hashlib.sha256(document.encode()).digest()[0] % 2
            halves["report" if odd else "choose"].append(document)
        for half, documents in halves.items():
            (target / half).mkdir(parents=True, exist_ok=True)
            (target / half / (file.name.split(".")[0] + ".val.txt")).write_text(
                SEPARATOR.join(documents)
            )


def tiny_text(folder: Path) -> Path:
    """Small texts: the package's own prose, and its source as code."""
    (folder / "val").mkdir(parents=True, exist_ok=True)
    code = [file.read_text() for file in sorted((HERE.parent / "minipuzzle").glob("*/*.py"))]
    prose = {
        which: list(read_documents(embedded.text_path(which))) for which in ("train", "validation")
    }
    texts = {
        "prose.train": [d[:4000] for d in prose["train"][:20]],
        "code.train": code[:20],
        "val/prose.val": [d[:4000] for d in prose["validation"]],
        "val/code.val": [d[:2000] for d in code[-16:]],
    }
    for name, documents in texts.items():
        (folder / f"{name}.txt").write_text(SEPARATOR.join(documents))
    return folder
