"""Several texts in one: "prose/=60% code/=30% chat.jsonl=10%", or how many blocks of each. No
torch.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from fractions import Fraction

from minipuzzle.errors import UserError
from minipuzzle.settings.counts import parse_count

WHOLE = 10_000
"""All of a text, in hundredths of a percent."""
ALLOWED = (
    'sources with shares of the tokens, such as "prose/=60% chat.jsonl=40%", or with numbers of'
    ' blocks, "prose/=96 chat.jsonl=32"'
)
_WEIGHED = re.compile(r"(.+)=([0-9][0-9.]*)([a-zA-Z%]*)")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A text by its name; ``share`` of the tokens in hundredths of a percent, or ``blocks`` of it;
    neither where it is the only one.
    """

    name: str
    share: int = 0
    blocks: int = 0

    @property
    def weight(self) -> int:
        """Its share or number; 0 where it is the only one."""
        return self.share or self.blocks


def parse_sources(named: str) -> tuple[Source, ...]:
    """The sources of a text: several where words end in =N% or =N, else the whole as one name.
    Names with spaces are quoted.

    Raises: UserError for shares that do not make 100 %, shares beside numbers, and a source without
    either beside others.
    """
    try:
        words = shlex.split(named)
    except ValueError:
        words = named.split()
    if not any(map(_WEIGHED.fullmatch, words)):
        return (Source(name=named),)
    sources = [_source(word) for word in words]
    if len({bool(source.share) for source in sources}) > 1:
        raise _malformed("shares and numbers of blocks")
    total = sum(source.share for source in sources)
    if total not in (0, WHOLE):
        raise _malformed(f"shares of {total / 100:g} % in all")
    return tuple(sources)


def _source(word: str) -> Source:
    match = _WEIGHED.fullmatch(word)
    if match is None:
        raise _malformed(f"{word}, without a share")
    if match[3] != "%":
        return Source(name=match[1], blocks=parse_count(match[2] + match[3]))
    try:
        share = Fraction(match[2]) * WHOLE / 100
    except ValueError as error:
        raise _malformed(word) from error
    if share.denominator != 1 or not 0 < share <= WHOLE:
        raise _malformed(f"{word}: a share from 0.01 % to 100 %, in hundredths of a percent")
    return Source(name=match[1], share=int(share))


def _malformed(got: str) -> UserError:
    return UserError(
        "The texts and their shares cannot be read.",
        got=got,
        allowed=ALLOWED,
        next="Give each source a share, 100 % in all, and put names with spaces in quotes.",
    )
