"""Nothing that distill has computed is lost: by other options, by a kill at any step."""

import shutil
from dataclasses import replace
from pydoc import locate

import pytest
from helpers import run
from safetensors.torch import load_file
from searched_runs import SHORT, Died, die, dying_at

from minipuzzle.artifacts import read_json
from minipuzzle.records import Distilled, Pretrained
from minipuzzle.rundir import RunDir
from minipuzzle.runs import distill as distill_stage
from minipuzzle.runs import legs
from minipuzzle.runs.race import FINALISTS, race
from minipuzzle.runs.training_folder import TrainingFolder


@pytest.fixture
def folder(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(searched, tmp_path_factory):
    """The same after an uninterrupted distill."""
    folder = shutil.copytree(searched, tmp_path_factory.mktemp("whole") / "run")
    run("distill", "--run", folder, *SHORT)
    return folder


def states(folder):
    """The legs that have a training state."""
    return sorted({path.parents[1].name for path in (folder / "distill").glob("*/state/*/")})


def same(folder, whole):
    one, two = (load_file(path / "student/model.safetensors") for path in (folder, whole))
    assert all((one[name] == two[name]).all() for name in two)
    facts = [replace(RunDir(path).stage(Distilled), finished="") for path in (folder, whole)]
    assert facts[0] == facts[1]
    files = [
        sorted(str(file.relative_to(path)) for file in path.rglob("*")) for path in (folder, whole)
    ]
    assert files[0] == files[1]


def test_states_of_finished_legs_go_when_nothing_starts_from_them(folder, whole, monkeypatch):
    """They stayed until the end, twelve bytes a parameter each: eight legs of a 4B student are 389
    GB.
    """
    seen, train_in = {}, legs.train_in

    def watched(job, model, objective, blocks, settings, place, *rest, **more):
        seen[place.name] = states(folder)
        return train_in(job, model, objective, blocks, settings, place, *rest, **more)

    monkeypatch.setattr(legs, "train_in", watched)
    run("distill", "--run", folder, *SHORT)
    top = read_json(folder / "search.json")["top"]
    assert list(seen)[:5] == [f"{name}-screening" for name in top]
    assert all(len(found) <= FINALISTS for found in seen.values())
    facts = RunDir(folder).stage(Distilled)
    screening, short = facts.screening_validation_loss, facts.short_validation_loss
    best = sorted(screening, key=screening.__getitem__)[:FINALISTS]
    first, second, third = (f"{name}-short" for name in best)
    assert seen[first] == sorted(f"{name}-screening" for name in best)
    assert seen[second] == sorted([first, *(f"{name}-screening" for name in best[1:])])
    assert len(seen[third]) == 2
    assert seen["long"] == [f"{min(short, key=short.__getitem__)}-short"]
    assert states(folder) == []
    same(folder, whole)


KILLS = [
    ("runs.legs.measure", 2),
    ("runs.training_folder.Leg.ended", 3),
    ("runs.training_folder.Leg.forget", 4),
    ("runs.training_folder.Leg.ended", 1),
    ("runs.training_folder.TrainingFolder.replace", 1),
    ("runs.distill.write_student", 1),
    ("rundir.RunDir.mark", 1),
    ("runs.distill.write_card", 1),
    ("runs.training_folder.TrainingFolder.finish", 1),
]
"""Where and at which call the command dies, one after the other: in screening runs, in a short run,
after the long one, after mark.
"""


def test_kills_at_every_step_lose_only_that_step(folder, whole, monkeypatch):
    """What was trained is not trained again, and what follows a mark is done all the same."""
    trained, train_in = [], legs.train_in

    def counted(job, model, objective, blocks, settings, place, *rest, **more):
        trained.extend([] if (place / "state").exists() else [place.name])
        return train_in(job, model, objective, blocks, settings, place, *rest, **more)

    monkeypatch.setattr(legs, "train_in", counted)
    for step, call in KILLS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"minipuzzle.{step}", dying_at(call, locate(f"minipuzzle.{step}")))
            with pytest.raises(Died):
                run("distill", "--run", folder, *SHORT)
    run("distill", "--run", folder, *SHORT)
    same(folder, whole)
    assert len(trained) == len(set(trained)) == 9, "every leg began once"


def contents(folder):
    return {
        file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def test_other_options_set_training_states_aside_and_the_same_ones_go_on(
    folder, whole, monkeypatch, capsys
):
    """They were deleted without a word."""
    with monkeypatch.context() as patch:
        patch.setattr(distill_stage, "write_student", die)
        with pytest.raises(Died):
            run("distill", "--run", folder, *SHORT)
    kept = contents(folder / "distill")
    assert any("state" in str(file) for file in kept)
    with monkeypatch.context() as patch:
        patch.setattr(legs, "train_in", die)
        with pytest.raises(Died):
            run("distill", "--run", folder, *SHORT, "--seed", 1)
    (aside,) = folder.glob("distill.before-*")
    assert (
        f"the logs and training checkpoints of other settings are kept in {aside}"
        in capsys.readouterr().err
    )
    assert contents(aside) == kept
    run("distill", "--run", folder, *SHORT)
    assert f"goes on with what was set aside as {aside}" in capsys.readouterr().err
    (other,) = folder.glob("distill.before-*")
    shutil.rmtree(other)
    same(folder, whole)


def test_a_finished_models_place_is_taken_by_another_only_with_a_word(folder, said):
    for name in ("log.csv", "state/000000000000512/state.json"):
        (folder / "pretrain/long" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pretrain/long" / name).write_text("{}")
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text("{}")
    run_dir = RunDir(folder)
    one = TrainingFolder(run_dir, "pretrain", "one", "one-key")
    one.claim()
    assert "pretrain.before-" in said[0], "of an older version, which did not say whose it is"
    (folder / "pretrain/long/state").mkdir(parents=True)
    (folder / "pretrain/long/log.csv").write_text("log")
    (folder / "pretrain/long/result.json").write_text('{"schema": 1, "validation_loss": 1.0}')
    run_dir.mark(Pretrained(key="one-key"))
    two = TrainingFolder(run_dir, "pretrain", "one", "another-rate")  # died before finish
    two.claim()
    assert [path.name for path in two.path.iterdir()] == ["identity.json"]
    assert sorted(
        len(list(path.rglob("log.csv"))) for path in folder.glob("pretrain.before-*")
    ) == [1, 1]
    assert not [
        path
        for path in folder.glob("pretrain.before-*/long/state")
        if path.parents[1].name > said[0]
    ]
    two.replace(folder / "model")
    assert "model of other settings is kept as" in said[-1]
    assert [(path / "config.json").read_text() for path in folder.glob("model.before-*")] == ["{}"]
    assert not run_dir.is_done("pretrain", "one-key"), "what is there is not what was marked"
    (folder / "model").mkdir()
    two.replace(folder / "model")
    assert (folder / "model").exists(), "half of what this training makes, from before a kill"
    assert len(list(folder.glob("model.before-*"))) == 1


def test_a_legs_result_is_its_number_bit_for_bit(tmp_path):
    leg = TrainingFolder(RunDir(tmp_path), "distill", "x", "y").leg("long")
    assert leg.loss() is None
    for loss in (3.0000000000000004, 0.1 + 0.2):
        leg.ended(loss)
        assert leg.loss() == loss
    leg.ended(float("nan"))
    assert leg.loss() != leg.loss()


def test_a_race_drops_what_nothing_starts_from_and_no_number_wins_nothing():
    kept = set()

    def one(name, leg):
        kept.add((name, leg.label))
        assert len([label for _, label in kept if label == "screening"]) <= FINALISTS + 1
        assert len([label for _, label in kept if label == "short"]) <= 2
        return {"a": 5.0, "b": 1.0, "c": float("nan"), "d": 2.0, "e": 3.0}[name]

    found = race("cabde", 30, one, drop=lambda name, label: kept.discard((name, label)))
    assert kept == {("b", "short")}
    assert (found.winner, list(found.short)) == ("b", ["b", "d", "e"])
