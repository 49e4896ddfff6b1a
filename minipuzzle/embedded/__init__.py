"""What ships inside the package, so that nothing must be fetched: a trained teacher, its tokenizer, three texts.

The texts are State of the Union addresses (US government, public domain), split by document. ``corpus.py`` makes them.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def teacher_path() -> Path:
    """The folder of the embedded teacher, an ordinary checkpoint."""
    return HERE / "teacher"


def text_path(which: str) -> Path:
    """The embedded "train", "calibration" or "validation" text."""
    return HERE / f"{which}.txt.bz2"


def recipe_path(name: str) -> Path:
    """A recipe that ships with the package."""
    return HERE.parent / "recipes" / f"{name}.yaml"
