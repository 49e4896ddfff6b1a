"""What ships inside the package, so that nothing must be fetched: a trained teacher, its tokenizer,
three texts.

Each text is of three kinds, a file each, split by document, all of them in the public domain:
speeches are State of the Union addresses (a work of the US government), code is Python of docutils
(placed in the public domain) and of flopy (CC0, from the US Geological Survey), docs is docutils'
documentation (placed in the public domain). The teacher learnt other addresses, other prose and
other Python; it has seen no documentation, and nothing of the validation text. ``corpus.py`` makes
them.
"""

from __future__ import annotations

from pathlib import Path

from minipuzzle.embedded.teacher import checkpoint_path, teacher_path

__all__ = ["checkpoint_path", "recipe_path", "teacher_path", "text_path"]
HERE = Path(__file__).parent


def text_path(which: str) -> Path:
    """The folder of the embedded "train", "calibration" or "validation" text, a file a kind."""
    return HERE / which


def recipe_path(name: str) -> Path:
    """A recipe that ships with the package."""
    return HERE.parent / "recipes" / f"{name}.yaml"
