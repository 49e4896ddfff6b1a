"""A streamed scoring that stops, goes on, or runs in several processes gives the same scores."""

import json

import pytest
from conftest import save, shaken, tiny
from helpers import FAST
from helpers import run as command
from launched import together
from streamed_scores import gib, run, same, saved_parent, score_in

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.scores import Scores


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return saved_parent(tmp_path_factory.mktemp("parent"))


@pytest.mark.parametrize("rows", [None, 40, 5])
def test_a_stopped_scoring_resumes_bit_equal(parent, tmp_path, monkeypatch, rows):
    """Stopped after each block in turn, of one pass, of several, and of some in which the parent
    is alone; blocks that were finished are not computed again.
    """
    from minipuzzle.importance import state, visit

    monkeypatch.setattr(state, "SAVING_SHARE", 1.0)
    options = {"iterative": 2} | ({} if rows is None else {"activations": gib(rows)})
    whole = run(parent, tmp_path / "whole", **options)
    usual = visit.Visits.visit
    visits = []

    def stopped(self, streams, index, *rest, **options):
        if len(visits) % 2:
            visits.append(None)
            raise KeyboardInterrupt
        visits.append(index)
        return usual(self, streams, index, *rest, **options)

    monkeypatch.setattr(visit.Visits, "visit", stopped)
    for _ in range(100):
        try:
            again = run(parent, tmp_path / "broken", **options)
            break
        except KeyboardInterrupt:
            assert len(list((tmp_path / "broken" / "partial").iterdir())) == 1
    first, later = {None: (1, 1), 40: (3, 1), 5: (5, 3)}[rows]
    left = [i for i in range(8) if i != whole.meta["removal_order"][0]]
    assert [v for v in visits if v is not None] == [*range(8)] * first + left * later
    same(whole, again)


def test_state_of_other_inputs_is_not_taken(parent, tmp_path, monkeypatch):
    from minipuzzle.importance import state, stream

    monkeypatch.setattr(state, "SAVING_SHARE", 1.0)
    monkeypatch.setattr(stream, "error_sums", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(parent, tmp_path)
    monkeypatch.undo()
    same(run(parent, tmp_path / "fresh", seed=1), run(parent, tmp_path, seed=1))


@pytest.mark.parametrize(
    "data", [b"", b"x" * 7, b"\xff" * 500, b"\2\0\0\0\0\0\0\0{}", b"\2\0\0\0\0\0\0\0[]"]
)
def test_a_damaged_state_is_refused(data, parent, tmp_path, monkeypatch):
    from minipuzzle.importance import state, stream

    monkeypatch.setattr(state, "SAVING_SHARE", 1.0)
    monkeypatch.setattr(stream, "error_sums", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(parent, tmp_path)
    monkeypatch.undo()
    saved = list((tmp_path / "partial").rglob("*.safetensors"))
    assert saved
    for file in saved:
        file.write_bytes(data)
    with pytest.raises(UserError, match="no saved scoring") as caught:
        run(parent, tmp_path)
    assert "Delete it" in caught.value.next


def test_two_processes_give_the_scores_of_one(parent, tmp_path):
    together(2, score_in, parent.path, tmp_path)
    score_in(parent.path, tmp_path)
    one = Scores.load(tmp_path / "scores")
    for rank in "01":
        same(one, Scores.load(tmp_path / f"scores{rank}"), rel=1e-12)


def test_the_command_in_two_processes_writes_once(tmp_path):
    """One run directory, one line in its list of commands, one answer; under torchrun itself
    commands are run by tests/test_parallel_commands.py.
    """
    save(shaken(tiny()), tmp_path / "model")
    folder = tmp_path / "run"
    score = ("score", tmp_path / "model", "--run", folder, *FAST["score"], "--samples", 4)
    first, other = together(2, command, *score, "--json")
    assert json.loads(first[first.index("{") :])["meta"]["width_samples"] == 4
    assert "{" not in other
    assert len(json.loads((folder / "commands.json").read_text())["commands"]) == 1
    parent = Checkpoint.open(tmp_path / "model").fingerprint
    assert Scores.load(folder / "scores.safetensors").meta["parent"] == parent
    assert not (folder / "scores.partial").exists()
