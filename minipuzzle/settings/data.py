"""Which texts a run reads. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from minipuzzle.settings.bounds import LENGTHS, SEEDS, settle
from minipuzzle.settings.declare import setting

EMBEDDED = "embedded"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Texts (files, folders, data sets ``hf:NAME``, or blends: ``blend``) and the length of their
    blocks.

    "embedded" names the demo's text, for models with the demo's tokenizer. What is not named ("")
    is that text for the embedded teacher; for any other model it is asked for, since nobody else's
    text can be guessed.
    """

    SECTION: ClassVar[str] = "data"
    PANEL: ClassVar[str] = "Texts"

    train: str = setting(
        "", "Training text: a file, a folder, hf:NAME, embedded, or a blend of such.", common=True
    )
    calibration: str = setting(
        "",
        "Calibration text: a file, a folder, hf:NAME, embedded, or a blend of such.",
        common=True,
    )
    validation: str = setting(
        "", "Validation text: a file, a folder, hf:NAME, embedded, or a blend of such.", common=True
    )
    length: int = setting(
        512, "Tokens in a block of text.", unit="tokens", within=LENGTHS, common=True
    )
    loss_on: Literal["assistant", "all"] = setting(
        "assistant", "Which tokens of conversations carry loss, KL and damage."
    )
    seed: int = setting(0, "Seed of the order of the documents.", within=SEEDS)

    def __post_init__(self) -> None:
        settle(self)
