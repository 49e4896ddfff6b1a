"""Blocks read one request ahead, in a thread, while the last ones are trained on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.blocks import TokenBlocks
from minipuzzle.data.pieces import Pieces

Rows = tuple[NDArray[np.int64], NDArray[np.int32]]


class Ahead:
    """``stream`` as that of ``blocks``, which it guesses: the next request is as far from this one
    as this from the last.

    A wrong guess (the first one, a new batch size) costs nothing but its reading.
    """

    def __init__(self, blocks: TokenBlocks | Pieces) -> None:
        self._blocks, self.spans = blocks, blocks.spans
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        self._guess: tuple[range, int] | None = None
        self._reading: Future[Rows] | None = None
        self._last = 0
        self.hits = 0

    def stream(self, positions: range, seed: int) -> Rows:
        """(tokens [n, length] int64, documents [n, length] int32) at n positions of the endless
        stream.
        """
        if self._reading is not None and self._guess == (positions, seed):
            rows = self._reading.result()
            self.hits += 1
        else:
            rows = self._blocks.stream(positions, seed)
        stride = positions.start - self._last or len(positions)
        self._last = positions.start
        following = range(
            max(0, positions.start + stride), max(0, positions.start + stride) + len(positions)
        )
        self._guess = (following, seed)
        self._reading = self._pool.submit(self._blocks.stream, following, seed)
        return rows
