"""Lengths in turn in one run: as many tokens in each step, no text twice, a resume that changes
nothing.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from helpers import FAST, heard, run
from searched_runs import Died

from minipuzzle.data import pack
from minipuzzle.data.pieces import Pieces, cut
from minipuzzle.errors import UserError
from minipuzzle.settings import DistillSettings, Training
from minipuzzle.settings.lengths import at_length, parse_lengths
from minipuzzle.training import next_token, train
from minipuzzle.training.stages import stages

TURNS = ((16, 0.5), (32, 0.25), (64, 0.25))
SETTINGS = Training(tokens=16 * 8 * 12, batch=8, micro_batch=4, learning_rate=1e-3, save_every=0.0)


def text(count=40, length=64):
    generator = np.random.default_rng(0)
    lists = [generator.integers(0, 61, n) for n in generator.integers(9, 90, count * 2)]
    return pack(
        [each.astype(np.uint32) for each in lists],
        block_length=length,
        vocab_size=61,
        seed=0,
        fingerprint="test",
        text_bytes=1,
    )


def test_pieces_are_the_stream_of_the_blocks():
    blocks = text()
    whole, documents = blocks.stream(range(3 * len(blocks)), seed=5)
    for length in (16, 32, 64):
        pieces = cut(blocks, length)
        count = 64 // length
        assert isinstance(pieces, Pieces) == (count > 1)
        assert pieces.block_length == length
        rows = np.concatenate(
            [pieces.stream(range(n, n + 7), seed=5)[0] for n in range(0, count * 14, 7)]
        )
        assert np.array_equal(rows.reshape(-1), whole[:14].reshape(-1))
        numbers = pieces.stream(range(5, 9), seed=5)[1]
        same = documents.reshape(-1, length)[5:9]
        assert (numbers[:, 0] == 0).all()
        assert np.array_equal(np.diff(numbers), np.diff(same))


class Seen:
    """Next-token loss that keeps the shapes and tokens of batches; dies in place of call ``at``."""

    capturable = False

    def __init__(self, at=0):
        self.batches, self.at = [], at

    def __call__(self, model, tokens, documents):
        if len(self.batches) + 1 == self.at:
            raise Died
        self.batches.append(tokens.clone())
        assert documents is not None
        assert (documents[:, 0] == 0).all()
        return next_token(model, tokens, documents)


def trained(folder, seen, lengths=TURNS, settings=SETTINGS):
    model = shaken(tiny("M*", hidden=16, heads=4, head_dim=4, vocab=61))
    settings = Training(**{**vars(settings), "isolate_documents": True})
    train(model, seen, text(), settings, folder, identity="x", lengths=lengths)
    return model.state_dict()


def test_each_length_has_its_share_and_every_step_as_many_tokens(tmp_path):
    seen = Seen()
    trained(tmp_path, seen)
    shapes = [tuple(tokens.shape) for tokens in seen.batches]
    assert shapes == [(4, 16)] * 12 + [(2, 32)] * 6 + [(1, 64)] * 6  # two micro-batches a step
    met = torch.cat([tokens.flatten() for tokens in seen.batches]).numpy()
    whole = text().stream(range(len(met) // 64), SETTINGS.seed)[0]
    assert np.array_equal(met, whole.reshape(-1))


@pytest.mark.parametrize("call", [8, 13, 16, 24])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, call):
    """Killed in each of the three, and in the first step of the second."""
    want = trained(tmp_path / "whole", Seen())
    with pytest.raises(Died):
        trained(tmp_path / "run", Seen(call))
    with heard() as said:
        found = trained(tmp_path / "run", Seen())
    assert any("going on after" in one for one in said)
    for name, value in want.items():
        assert torch.equal(found[name], value), name
    rows = [(tmp_path / run / "log.csv").read_text().splitlines() for run in ("whole", "run")]
    column = rows[0][0].split(",").index("loss")
    losses = [[line.split(",")[column] for line in each] for each in rows]
    assert losses[0] == losses[1]


def test_other_lengths_are_another_run(tmp_path):
    with pytest.raises(Died):
        trained(tmp_path, Seen(20))
    with pytest.raises(UserError, match="another run"):
        trained(tmp_path, Seen(), ((16, 0.25), (32, 0.5), (64, 0.25)))


def test_lengths_are_read():
    assert parse_lengths("4096") == ((4096, 1.0),)
    assert parse_lengths("8k:80%,32k:20%") == ((8000, 0.8), (32000, 0.2))
    assert DistillSettings(length=64).length == ((64, 1.0),)
    assert DistillSettings(length="8Ki:0.5,16Ki:0.5").length == ((8192, 0.5), (16384, 0.5))


@pytest.mark.parametrize(
    "words",
    [
        "8k:80%",
        "8k:80%,32k:30%",
        "32k:80%,8k:20%",
        "8k:50%,8k:50%",
        "8k:50%,20k:50%",
        "8k:0%,32k:100%",
        "8k,32k",
        "8k:80%:1,32k:20%",
        "1:50%,2:50%",
        "long",
        "",
    ],
)
def test_nonsense_is_refused(words):
    with pytest.raises(UserError):
        DistillSettings(length=words)


def test_a_batch_must_fill_the_longer_blocks():
    kept = at_length(Training(batch=8, micro_batch=2), 8000, 32000)
    assert (kept.batch, kept.micro_batch) == (2, 1)  # at once at least a block
    with pytest.raises(UserError, match="multiple of 4"):
        at_length(Training(batch=6), 8000, 32000)
    assert [s.stop for s in stages(text(), SETTINGS, TURNS)][:2] == [768, 1152]


def test_distill_in_two_lengths(searched, tmp_path, capsys):
    """By the command: short runs and validation at the first length, the long run at both."""
    folder = tmp_path / "run"
    shutil.copytree(searched, folder)
    given = list(map(str, FAST["distill"]))
    given[given.index("--length") + 1] = "64:50%,128:50%"
    with heard() as said:
        run("distill", "--run", folder, *given)
    turns = [one for one in said if "tokens in a step" in one]
    assert turns == [
        "after 0 tokens: 4 blocks of 64 tokens in a step",
        "after 1,024 tokens: 2 blocks of 128 tokens in a step",
    ]
    assert (folder / "student/config.json").exists()
    given[given.index("--batch") + 1] = "3"
    run("distill", "--run", folder, *given, code=2)
    assert "no whole number of the longer blocks" in capsys.readouterr().err


def test_a_plan_is_for_the_longest(tmp_path, capsys):
    place = ("distill", "--plan", "--teacher", "docs/examples/nemotron-h-56b", "--json")
    place = (*place, "--student", "docs/examples/nemotron-h-47b", "--batch", 8)

    def plan(*more):
        run(*place, *more)
        return json.loads(capsys.readouterr().out)

    both, short, long = (plan("--length", n) for n in ("8k:75%,32k:25%", "8k", "32k"))
    assert both["rows"][-1]["bytes"] == long["rows"][-1]["bytes"] != short["rows"][-1]["bytes"]
    mean = 0.75 * short["flops_per_token"] + 0.25 * long["flops_per_token"]
    assert both["flops_per_token"] == pytest.approx(mean, rel=1e-12)
    parts = plan("--length", "32k", "--context-parallel", 4)
    assert [row["gpus"] for row in parts["rows"]][:2] == [4, 8]
    kept = "all kept"
    few, many = (
        next(r["bytes"][kept] for r in p["rows"] if r["gpus"] == 8) for p in (parts, short)
    )
    assert few > many  # the keys and values of the other parts
    assert few < 1.05 * many
