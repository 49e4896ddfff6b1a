"""Scales are spread over codes as repeat_interleave spreads them, whatever shares one."""

from pathlib import Path

import pytest
import torch

from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.quantised import CODES, Fp8
from minipuzzle.checkpoint.scales import scale_of


def entry(shape, dtype="F32"):
    return Entry(file=Path("x"), dtype=dtype, shape=shape, start=0)


@pytest.mark.parametrize(
    ("shape", "scales", "block", "repeats"),
    [
        ((6, 5), (), None, (6, 5)),
        ((6, 5), (6,), None, (1, 5)),
        ((6, 5), (3, 2), (2, 3), (2, 3)),
        ((4, 6, 5), (4,), None, (1, 6, 5)),
        ((4, 6, 5), (4, 6, 1), None, (1, 1, 5)),
        ((4, 6, 5), (4, 3, 2), (2, 3), (1, 2, 3)),
    ],
)
def test_the_scale_of_each_code(shape, scales, block, repeats):
    files = {"w": entry(shape, CODES), "w_scale": entry(scales)}
    scale = scale_of("w", files, Fp8(method="x", block=block))
    values = torch.rand(scale.grid)
    full = values
    for dim, times in enumerate(repeats):
        full = full.repeat_interleave(times, dim).narrow(dim, 0, shape[dim])
    lines = full.reshape(-1, shape[-1])
    for first, count in ((0, len(lines)), (2, 3)):
        got = scale.of_lines(values.flatten(), first, count).expand(count, shape[-1])
        assert torch.equal(got, lines[first : first + count])
