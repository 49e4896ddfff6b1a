"""A scoring in several passes over the blocks: the scores of one pass, in bounded memory."""

import os

import pytest
from helpers import Watched
from hypothesis import given
from hypothesis import strategies as st
from launched import together
from streamed_scores import CPU, gib, run, same, saved_parent, text

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.importance import score, work
from minipuzzle.importance.streams import Streams
from minipuzzle.memory.passes import Pass, first_round, later_round
from minipuzzle.model.prefetch import BlockReader
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings

COUNTS = st.integers(1, 40)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return saved_parent(tmp_path_factory.mktemp("parent"))


def test_passes_by_pencil():
    """Ten samples, four of them with three variants: 10 + 4 x 3 = 22 rows."""
    load = {"samples": 10, "shared": 4, "variants": 3, "batch": 2}
    one = Pass(start=0, samples=10, shared=4, watched=True, ranked=True)
    assert first_round(**load, rows=22) == (one,)
    two = Pass(start=3, samples=1, shared=1, watched=False, ranked=True)
    assert first_round(**load, rows=21) == (Pass(**{**vars(one), "shared": 3}), two)
    alone = [
        Pass(start=n, samples=2, shared=0, watched=True, ranked=n == 8) for n in range(0, 9, 2)
    ]
    few = [Pass(start=n, samples=1, shared=1, watched=False, ranked=True) for n in range(4)]
    assert first_round(**load, rows=3) == (*alone, *few)
    assert later_round(shared=4, variants=3, rows=15) == (
        Pass(start=0, samples=3, shared=3, watched=False, ranked=True),
        Pass(start=3, samples=1, shared=1, watched=False, ranked=True),
    )
    assert one.of(9, 3) == Pass(start=0, samples=9, shared=3, watched=True, ranked=True)
    assert two.of(10, 3).shared == 0


@given(COUNTS, COUNTS, COUNTS, st.integers(-5, 400), st.integers(1, 8))
def test_passes_cover_every_sample_once_within_the_rows(samples, shared, variants, rows, batch):
    samples = max(samples, shared)
    passes = first_round(samples=samples, shared=shared, variants=variants, rows=rows, batch=batch)
    for wanted, count in (("samples", samples), ("shared", shared)):
        parts = [p for p in passes if p.watched or wanted == "shared"]
        seen = [i for p in parts for i in range(p.start, p.start + getattr(p, wanted))]
        assert seen == list(range(count))
    assert max(p.rows(variants) for p in passes) <= max(rows, 1 + variants, batch)
    ranked = [p.ranked for p in passes]
    assert sorted(ranked) == ranked
    assert all(p.ranked for p in passes if p.shared)


@pytest.mark.parametrize("rows", [40, 33, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"bits": "4"},
        {"metric": "loss", "estimator": "flap"},
        {"iterative": 3},
        {"samples": 2, "block_samples": 6},
    ],
)
def test_scores_of_several_passes_are_those_of_one(parent, tmp_path, monkeypatch, rows, options):
    """A sample at a time they are equal to the last bit but for sums over samples."""
    held, begun = [0], [0]

    def settle(self):
        held.append(self.alive)
        begun.append(len(self.variants))

    monkeypatch.setattr(Streams, "settle", settle)
    options = {**options, "batch": 1}
    whole = run(parent, tmp_path / "one", **options)
    assert max(held) > 50
    held[:] = [0]
    parts = run(parent, tmp_path / "several", **options, activations=gib(rows))
    same(whole, parts, rel=1e-12)
    assert max(held) <= max(rows, 1 + max(begun))
    assert parts.meta.get("removal_order") == whole.meta.get("removal_order")


@pytest.mark.parametrize("rows", [40, 5])
def test_progress_counts_no_sample_twice(parent, tmp_path, monkeypatch, rows):
    read, done = [], []
    usual = BlockReader._read
    monkeypatch.setattr(
        BlockReader,
        "_read",
        lambda self, index, tensors: (read.append(index), usual(self, index, tensors))[1],
    )
    settings = ScoreSettings(samples=6, block_samples=3, batch=2, activations=gib(rows))
    score(parent, text(), settings, device=CPU, partial=tmp_path, progress=Watched(done.append))
    assert sum(done) == work(settings, parent.architecture, 8)
    assert read == list(range(8)) * {40: 3, 5: 5}[rows]


def scored_by_rank(path, folder):
    scores = run(Checkpoint.open(path), folder, samples=7, batch=1, activations=gib(20))
    scores.save(folder / f"scores{os.environ.get('RANK', '')}")


def test_two_processes_of_unequal_shares_do_the_same_passes(parent, tmp_path):
    """Of three shared samples the second process has one, and takes part in every pass."""
    together(2, scored_by_rank, parent.path, tmp_path)
    whole = run(parent, tmp_path / "one", samples=7, batch=1)
    for rank in "01":
        same(whole, Scores.load(tmp_path / f"scores{rank}"), rel=1e-12)


def test_how_much_is_held_is_no_part_of_what_scores_are_compared_by():
    assert ScoreSettings(activations=1.0).identity() == ScoreSettings().identity()
