"""Which texts a stage reads: those that are named, or lie under their role's name in ``data/`` of
this folder, or the demo's own for the demo's own teacher. Nobody else's is guessed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, blended, load_blocks
from minipuzzle.data.documents import text_name
from minipuzzle.data.files import file_format
from minipuzzle.data.hub import PREFIX, fetched
from minipuzzle.errors import UserError
from minipuzzle.settings import EMBEDDED, Data
from minipuzzle.settings.blend import Source, parse_sources

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


@dataclass(frozen=True, kw_only=True)
class Part:
    """A source of a text: its ``name`` in reports, where it is, and its share or number of blocks
    (``settings.blend``), neither where it is the only one.
    """

    name: str
    path: Path
    source: Source


def text_parts(which: str, named: str, tokenizer: Tokenizer, fetch_to: Path) -> list[Part]:
    """The sources of the "train", "calibration" or "validation" text for a model with this
    tokenizer; says them. Data sets are fetched into a folder.

    Raises: UserError where none is named and none lies in ``data/``, for shares that cannot be
    read, and for the demo's text with another tokenizer than the demo's.
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
    sources = (Source(name=named),) if _exists(named) else parse_sources(named)
    paths = [_path(which, source, tokenizer, fetch_to) for source in sources]
    names = [_short(source.name) for source in sources]
    if len(set(names)) < len(names):
        names = [source.name for source in sources]
    return [
        Part(name=name, path=path, source=source)
        for name, path, source in zip(names, paths, sources, strict=True)
    ]


def load_text(
    which: str, parts: Sequence[Part], tokenizer: Tokenizer, data: Data, cache: Path
) -> TokenBlocks:
    """The token blocks of a text, tokenised once per ``cache``.

    A blend's sources are its domains; of one for training all blocks are kept, and a stream has
    them in its shares; else as many blocks of each are taken as make them. Of validation each file
    of a folder is a domain. Of calibration conversations are joined and cut as documents are, since
    what fills a block would be scored too. Raises: UserError as ``load_blocks``, and for fewer
    blocks than are asked for.
    """
    each = [
        load_blocks(
            part.path,
            tokenizer,
            block_length=data.length,
            seed=data.seed,
            cache=cache,
            by_file=which == "validation" and len(parts) == 1,
            loss_on=data.loss_on,
            whole=which != "calibration",
        )
        for part in parts
    ]
    each = [
        blocks.take(part.source.blocks, data.seed) if part.source.blocks else blocks
        for part, blocks in zip(parts, each, strict=True)
    ]
    if len(parts) == 1:
        return each[0]
    blend = blended(each, [part.name for part in parts], [part.source.weight for part in parts])
    return blend if which == "train" else blend.proportioned(data.seed)


def _path(which: str, source: Source, tokenizer: Tokenizer, fetch_to: Path) -> Path:
    named = source.name
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
    if named.startswith(PREFIX):
        path = fetched(named, fetch_to)
    else:
        path = embedded.text_path(which) if named == EMBEDDED else Path(named)
    about = " (the demo's)" if named == EMBEDDED else ""
    if source.weight:
        share = f"{source.share / 100:g} %" if source.share else f"{source.blocks:,} blocks"
        about += f", {share}"
    log.info(f"{which} text: {path}{about}")
    return path


def _short(named: str) -> str:
    """A name for reports: the file's without its endings, the folder's, or the data set's."""
    if named.startswith(PREFIX):
        return re.split(r"[:\[]", named.removeprefix(PREFIX))[0].rsplit("/", 1)[-1]
    path = Path(named)
    return text_name(path) if file_format(path) else path.name or named


def _exists(named: str) -> bool:
    try:
        return Path(named).exists()
    except (OSError, ValueError):  # a name that cannot be one of a file
        return False


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
