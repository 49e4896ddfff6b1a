"""Blocks read ahead are those that would have been read."""

import numpy as np
import pytest

from minipuzzle.data import pack
from minipuzzle.data.ahead import Ahead


def blocks():
    tokens = np.random.default_rng(0).integers(0, 60, 40 * 8).astype(np.uint32)
    return pack([tokens], block_length=8, vocab_size=61, seed=0, fingerprint="x", text_bytes=1)


@pytest.mark.parametrize(
    ("requests", "hits"),
    [
        (
            [range(i, i + 4) for i in range(0, 80, 4)],
            18,
        ),  # one process: the first stride is not known
        ([range(i, i + 4) for i in range(8, 180, 16)], 9),  # one of four
        ([range(4), range(4, 8), range(4, 8), range(100, 103), range(2)], 1),  # at random
    ],
)
def test_stream(requests, hits):
    plain, ahead = blocks(), Ahead(blocks())
    for positions in requests:
        got, want = ahead.stream(positions, 3), plain.stream(positions, 3)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
    assert ahead.hits >= hits
    got, want = (
        ahead.stream(requests[-1], 4),
        plain.stream(requests[-1], 4),
    )  # another seed is never taken for this one
    assert np.array_equal(got[0], want[0])
