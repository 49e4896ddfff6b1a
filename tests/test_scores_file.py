"""Scores files that hold something else than the scores of their parent: refused in four parts."""

import json
import os

import numpy as np
import pytest
from run_files import four

from minipuzzle.artifacts import read_arrays
from minipuzzle.errors import UserError
from minipuzzle.scores import Scores


def scores():
    return {
        "blocks": np.arange(1.0, 4.0),
        "hidden": np.ones(8),
        "blocks.0.head_channels": np.ones((2, 3)),
        "blocks.1.intermediate": np.ones(4),
        "blocks.2.q_heads": np.ones(2),
        "blocks.1.curve.intermediate.sizes": np.array([1, 2]),
        "blocks.1.curve.intermediate.errors": np.array([2.0, 1.0]),
    }


WRONG_SCORES = {
    "no blocks": lambda t: t.pop("blocks"),
    "nan": lambda t: t["blocks"].fill(np.nan),
    "none": lambda t: t.update(blocks=np.ones(0)),
    "float32": lambda t: t.update(hidden=np.ones(8, np.float32)),
    "two": lambda t: t.update(blocks=np.ones((3, 1))),
    "other": lambda t: t.update({"blocks.9.intermediate": np.ones(4)}),
    "word": lambda t: t.update({"blocks.x.intermediate": np.ones(4)}),
    "unknown": lambda t: t.update(more=np.ones(4)),
    "axis": lambda t: t.update({"blocks.0.depth": np.ones(4)}),
    "curve": lambda t: t.update({"blocks.0.curve": np.ones(4)}),
    "lost": lambda t: t.pop("blocks.1.curve.intermediate.errors"),
    "order": lambda t: t.update({"blocks.1.curve.intermediate.sizes": np.array([2, 1])}),
    "flat": lambda t: t.update({"blocks.0.head_channels": np.ones(3)}),
    "negative": lambda t: t.update({"blocks.-1.q_heads": np.ones(2)}),
}


@pytest.mark.parametrize("wrong", WRONG_SCORES)
def test_scores_that_are_none(wrong, tmp_path):
    from safetensors.numpy import save

    file, tensors = tmp_path / "scores.safetensors", scores()
    about = {"minipuzzle": json.dumps({"schema": 2, "meta": {}})}
    file.write_bytes(save(tensors, metadata=about))
    assert Scores.load(file).curves[1]["intermediate"][0].tolist() == [1, 2]
    WRONG_SCORES[wrong](tensors)
    file.write_bytes(save(tensors, metadata=about))
    with pytest.raises(UserError) as caught:
        Scores.load(file)
    four(caught, "scores.safetensors", "minipuzzle score")


def test_headers_of_scores_that_are_none(tmp_path):
    from safetensors.numpy import save

    file = tmp_path / "scores.safetensors"
    for about in (
        "[]",
        "{",
        "null",
        "{}",
        '{"schema": 1, "meta": {}}',
        '{"schema": 2, "meta": []}',
        "[" * 100_000,
    ):
        file.write_bytes(save(scores(), metadata={"minipuzzle": about}))
        with pytest.raises(UserError) as caught:
            Scores.load(file)
        four(caught, "scores.safetensors", "minipuzzle score")
    for data in (
        b"",
        b"x" * 7,
        os.urandom(500),
        b"\xff" * 8 + b"{}",
        save({"blocks": np.ones(3)})[:-4],
    ):
        file.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read_arrays(file)
        four(caught, "damaged")
