"""Which texts a stage reads: those that are named, or lie under their role's name in ``data/`` of
this folder, or the demo's own for the demo's own teacher. Nobody else's is guessed.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.settings import EMBEDDED, Data

log = logging.getLogger(__name__)


def own_texts(data: Data, parent: Checkpoint) -> Data:
    """The texts for a parent: what is not named is the demo's text where the parent is the demo's
    teacher, by content.
    """
    unnamed = [
        which for which in ("train", "calibration", "validation") if not getattr(data, which)
    ]
    if not unnamed or parent.fingerprint != Checkpoint.open(embedded.teacher_path()).fingerprint:
        return data
    named: dict[str, Any] = dict.fromkeys(unnamed, EMBEDDED)
    return replace(data, **named)


def text_path(which: str, named: str, tokenizer: Tokenizer) -> Path:
    """The file or folder of the "train", "calibration" or "validation" text for a model with this
    tokenizer; says it.

    Raises: UserError where none is named and none lies in ``data/``, and for the demo's text with
    another tokenizer than the demo's.
    """
    named = named or _in_this_folder(which)
    if not named:
        raise UserError(
            f"Which {which} text?",
            got=(
                f"none was named, there is no data/{which}, and this model is not the demo's"
                " teacher"
            ),
            allowed="a file or folder of text that the model should be good at",
            next=(f"Name it with data.{which}, or put it into this folder as data/{which}."),
        )
    if (
        named == EMBEDDED
        and tokenizer.fingerprint != Tokenizer.load(embedded.teacher_path()).fingerprint
    ):
        raise UserError(
            f"The demo's {which} text is for models with the demo's tokenizer.",
            got=f"the tokenizer in {tokenizer.folder}",
            allowed="a file or folder of text that this model should be good at",
            next=f"Name one with data.{which}.",
        )
    path = embedded.text_path(which) if named == EMBEDDED else Path(named)
    log.info(f"{which} text: {path}" + (" (the demo's)" if named == EMBEDDED else ""))
    return path


def _in_this_folder(which: str) -> str:
    """data/train, or data/train.jsonl: the folder or the one file of that name; "" where there is
    none.

    Raises: UserError where there are several.
    """
    found = [
        path for path in sorted(Path("data").glob(f"{which}*")) if path.name.split(".")[0] == which
    ]
    if len(found) > 1:
        raise UserError(
            f"Which {which} text?",
            got=", ".join(map(str, found)),
            allowed=f"one file or folder data/{which}",
            next=f"Name one of them with data.{which}, or take the others away.",
        )
    return str(found[0]) if found else ""
