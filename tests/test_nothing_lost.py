"""Nothing that was computed is lost: other options, a kill at any step, a mistake that is found
late.
"""

import shutil
from dataclasses import replace
from pydoc import locate

import pytest
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from safetensors.torch import load_file

from minipuzzle.artifacts import read_json
from minipuzzle.identity import fingerprint
from minipuzzle.records import Distilled, Pretrained, Pruned, Searched
from minipuzzle.rundir import RunDir
from minipuzzle.runs import distill as distill_stage
from minipuzzle.runs import legs
from minipuzzle.runs import prune as prune_stage
from minipuzzle.runs.parent import MaskedParent
from minipuzzle.runs.race import FINALISTS, race
from minipuzzle.runs.training_folder import TrainingFolder

SHORT = (
    "--tokens",
    1024,
    "--short-tokens",
    768,
    "--learning-rate",
    "5e-4",
    "--validation",
    TEXT,
    "--data",
    TEXT,
    "--length",
    64,
    "--batch",
    4,
    "--device",
    "cpu",
)


class Died(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def die(*_, **__):
    raise Died


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run directory after search, with five candidates."""
    folder = tmp_path_factory.mktemp("searched")
    save(shaken(tiny()), folder / "ckpt")
    run("score", folder / "ckpt", "--run", folder / "run", "--data", TEXT, *FAST["score"])
    run(
        "search",
        "--run",
        folder / "run",
        *FAST["search"],
        "--method",
        "solver",
        "--refine",
        2,
        "--top",
        5,
    )
    return folder / "run"


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


def dying_at(call, function):
    calls = []

    def killed(*args, **options):
        calls.append(1)
        if len(calls) == call:
            raise Died
        return function(*args, **options)

    return killed


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


BAD = {
    "no such text": ("--data", "nothing.txt"),
    "no such text.": ("--validation", "nothing.txt"),
    "no checkpoint here": ("--teacher", "nothing"),
    "matches nothing": ("--adapter", "lora", "--target", "nothing"),
    "no such adapter": ("--adapter", "nothing"),
    "top-K": ("--teacher-logits", "answers", "--teacher-keep", "some"),
    "FP8 cannot run": ("--precision", "fp8"),
    "No block would": ("--precision", "fp8-emulated", "--bf16-ends", "9"),
    "FP8 cannot run here": ("--teacher-precision", "fp8"),
    "into replicas": ("--replicas", "2"),
    "shorter than a block": ("--length", "99999"),
    "not those of this run": ("--teacher-logits", "others", "--teacher-keep", "top-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_of_distill_is_found_before_anything_is_cut(
    what, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others").mkdir()
    (tmp_path / "others/about.json").write_text('{"teacher": "another"}')
    run("distill", "--run", folder, *SHORT, *BAD[what], code=2)
    assert what in capsys.readouterr().err
    assert not (folder / "candidates").exists()


RECIPE = """
checkpoint: {checkpoint}
device: cpu
data: {{train: {text}, calibration: {text}, validation: {text}, length: 64}}
score: {{samples: 8, block_samples: 4}}
search: {{budget: 96%, multiple: 8, candidates: 3, validation_blocks: 4, top: 1}}
distill: {{training: {{tokens: 1024, batch: 4}}}}
"""
SWAPS = {
    "no such text": ("train: {text}", "train: nothing.txt"),
    "no such text.": ("validation: {text}", "validation: nothing.txt"),
    "meets this budget": ("96%", "1%"),
    "must leave a block": ("samples: 8,", "samples: 8, iterative: 99,"),
    "no such adapter": ("{{training", "{{adapter: {{kind: nothing}}, training"),
    "FP8 cannot run": ("batch: 4", "batch: 4, precision: fp8"),
}


@pytest.mark.parametrize("what", SWAPS)
def test_a_mistake_in_a_recipe_is_found_before_anything_is_scored(
    what, searched, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE.replace(*SWAPS[what])
    assert recipe != RECIPE
    (tmp_path / "recipe.yaml").write_text(
        recipe.format(checkpoint=searched.parent / "ckpt", text=TEXT)
    )
    run("run", "recipe.yaml", "--run", "run", code=2)
    assert what in capsys.readouterr().err
    assert not list(tmp_path.glob("run/scores*"))


def test_pretrain_opens_its_validation_text_first_keeps_what_is_done_and_drops_its_states(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    recipe = (
        "model: {model_type: nemotron_h, vocab_size: 4096, hidden_size: 16,"
        " hybrid_override_pattern: M-, intermediate_size: 32, num_attention_heads: 2,"
        " num_key_value_heads: 1, head_dim: 8, mamba_num_heads: 4, mamba_head_dim: 8, n_groups: 1,"
        f" ssm_state_size: 8, chunk_size: 16}}\ndata: {{length: 64, train: {TEXT}, validation:"
        " VALIDATION}\ntraining: {tokens: 1024, learning_rate: 3.0e-3, batch: 4, seed:"
        " 0}\ndevice: cpu\ntokenizer: embedded\n"
    )
    (tmp_path / "bad.yaml").write_text(recipe.replace("VALIDATION", "nothing.txt"))
    run("pretrain", "bad.yaml", "--run", "run", code=2)
    assert "There is no such text." in capsys.readouterr().err
    assert not (tmp_path / "run/pretrain").exists(), "found after the training"
    (tmp_path / "good.yaml").write_text(recipe.replace("VALIDATION", str(TEXT)))
    run("pretrain", "good.yaml", "--run", "run")
    before = (tmp_path / "run/model/model.safetensors").read_bytes()
    assert sorted(path.name for path in (tmp_path / "run/pretrain").iterdir()) == [
        "identity.json",
        "log.csv",
    ]
    capsys.readouterr()
    run("pretrain", "good.yaml", "--run", "run")
    assert "nothing changed" in capsys.readouterr().err
    (tmp_path / "good.yaml").write_text(
        recipe.replace("VALIDATION", str(TEXT)).replace("seed: 0", "seed: 1")
    )
    run("pretrain", "good.yaml", "--run", "run")
    (aside,) = (tmp_path / "run").glob("model.before-*")
    assert (
        (aside / "model.safetensors").read_bytes()
        == before
        != (tmp_path / "run/model/model.safetensors").read_bytes()
    )
    assert len(list((tmp_path / "run").glob("pretrain.before-*/log.csv"))) == 1


def test_prune_keeps_what_it_had_cut_and_never_another_searchs(folder, monkeypatch, capsys):
    real, cut = prune_stage.verify_logits, []

    def counted(parent, saved, *rest):
        cut.append(saved.path.name)
        if len(cut) == 3:
            raise Died
        return real(parent, saved, *rest)

    monkeypatch.setattr(prune_stage, "verify_logits", counted)
    with pytest.raises(Died):
        run("prune", "--run", folder)
    run("prune", "--run", folder)
    top = read_json(folder / "search.json")["top"]
    assert cut == [*top[:3], *top[2:]]
    assert set(RunDir(folder).stage(Pruned).logit_error) == set(top)
    assert not (folder / "prune.partial.json").exists()
    before = shutil.copytree(folder, folder.with_name("before"))
    run("search", "--run", folder, *FAST["search"], "--method", "solver", "--refine", 3, "--top", 5)
    cut.clear()
    with pytest.raises(Died):
        run("prune", "--run", folder)
    for name in ("search.json", "scores.safetensors"):
        shutil.copy(before / name, folder / name)
    RunDir(folder).mark(Searched(key=RunDir(before).key("search")))  # as the first search again
    capsys.readouterr()
    cut[:] = [""] * 9
    run("prune", "--run", folder)
    assert "nothing changed" not in capsys.readouterr().err, "some of them are the other search's"
    assert cut[9:] == top


def test_what_follows_a_mark_is_done_again(folder, monkeypatch):
    """score and search: a kill between mark and the removal of what they could have gone on
    from.
    """
    for name, stage in (("score", "scores.partial"), ("search", "search.partial")):
        key = RunDir(folder).key(name)
        place = folder / stage / (key if name == "score" else f"{fingerprint(key, 'fp32')}.json")
        place.parent.mkdir()
        place.mkdir() if name == "score" else place.write_text('{"key": "x", "results": {}}')
    run("score", folder.parent / "x", "--run", folder, code=2)
    run("score", "--run", folder, "--data", TEXT, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--method", "solver", "--refine", 2, "--top", 5)
    assert not list(folder.glob("*.partial"))


def test_an_interrupted_search_keeps_all_that_it_had_measured(checkpoint, tmp_path, monkeypatch):
    """Only the first one of them was on disk, and a killed search measured the others again."""
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, *FAST["score"], "--no-curves")
    measure, calls = MaskedParent.__call__, []

    def counted(self, selection):
        calls.append(selection)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, selection)

    monkeypatch.setattr(MaskedParent, "__call__", counted)
    run("search", "--run", folder, *FAST["search"], code=130)
    (partial,) = (folder / "search.partial").glob("*.json")
    assert len(read_json(partial)["results"]) == 3
    run("search", "--run", folder, *FAST["search"])
    candidates = read_json(folder / "search.json")["candidates"]
    assert len(calls) == 4 + len(candidates) - 3
    assert not partial.exists()
