"""Which texts a run reads. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.settings.bounds import SEEDS, within

EMBEDDED = "embedded"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Texts (files or folders) and the length of their blocks.

    "embedded" names the demo's text, for models with the demo's tokenizer. What is not named ("")
    is that text for the embedded teacher; for any other model it is asked for, since nobody else's
    text can be guessed.
    """

    train: str = ""
    calibration: str = ""
    validation: str = ""
    length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        within(self, length=(2, 2**24), seed=SEEDS)
