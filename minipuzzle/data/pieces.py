"""Long blocks cut into pieces, as a stream of shorter blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.blocks import TokenBlocks


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """``count`` pieces of each of ``blocks``, next to each other in the stream. So the n-th token
    of the stream is the same for pieces of all sizes, and a training that goes on with longer ones
    meets no text twice.
    """

    spans: ClassVar[bool] = False
    blocks: TokenBlocks
    count: int

    @property
    def block_length(self) -> int:
        """Tokens in a piece."""
        return self.blocks.block_length // self.count

    @property
    def fingerprint(self) -> str:
        """That of the whole blocks."""
        return self.blocks.fingerprint

    def __len__(self) -> int:
        return len(self.blocks) * self.count

    def distinct(self, positions: int) -> int:
        """As ``TokenBlocks.distinct``."""
        return min(positions, self.count * self.blocks.distinct(-(-positions // self.count)))

    def stream(self, positions: range, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """As ``TokenBlocks.stream``, whose documents are counted from 0 in each piece."""
        first = positions.start // self.count
        whole = range(first, -(-positions.stop // self.count))
        here = slice(positions.start - first * self.count, positions.stop - first * self.count)
        tokens, documents = self.blocks.stream(whole, seed)
        shape = (-1, self.block_length)
        numbers = documents.reshape(shape)[here]
        return tokens.reshape(shape)[here], numbers - numbers[:, :1]


def cut(blocks: TokenBlocks, length: int) -> TokenBlocks | Pieces:
    """``blocks`` in pieces of ``length`` tokens, which divides theirs; of blocks with ``spans`` the
    ``shorter`` ones of that length, since half a conversation would lack its beginning.
    """
    if blocks.spans:
        return next(one for one in (blocks, *blocks.shorter) if one.block_length == length)
    count = blocks.block_length // length
    return blocks if count == 1 else Pieces(blocks=blocks, count=count)
