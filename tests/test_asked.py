"""What was not named is asked for: nobody's checkpoint and nobody's text is guessed."""

import shutil

import pytest
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.artifacts import read_json
from minipuzzle.data.tokenizer import train_tokenizer
from minipuzzle.rundir import RunDir
from minipuzzle.runs.texts import text_parts

TEXTS = ("train", "calibration", "validation")


@pytest.fixture
def theirs(tmp_path):
    """A user's model: even with the demo's tokenizer it is not the demo's."""
    return save(shaken(tiny()), tmp_path / "theirs")


@pytest.fixture
def scored(theirs, tmp_path):
    """Its run directory after a search."""
    run("score", theirs, "--run", tmp_path / "run", *FAST["score"], "--no-curves")
    run("search", "--run", tmp_path / "run", *FAST["search"], "--top", 1)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("words", "which"),
    [
        (("score", "theirs"), "calibration"),
        (("adapt", "theirs"), "train"),
        (("eval", "theirs", "--parent", "theirs"), "validation"),
        (("search", "theirs", "--budget", "90%"), "validation"),
    ],
)
def test_a_text_that_is_not_named_is_asked_for(words, which, theirs, tmp_path, monkeypatch, capsys):
    """A user's model was trained on State of the Union addresses, and scored, searched and reported
    on them.
    """
    monkeypatch.chdir(tmp_path)
    run(*words, "--device", "cpu", code=2)
    said = capsys.readouterr().err
    assert f"error: Which {which} text?" in said
    assert "--data" in said
    assert not (tmp_path / "minipuzzle-run" / "tokens").exists()


def test_the_three_commands_in_that_very_form(theirs, tmp_path, monkeypatch, capsys):
    """Checkpoint and texts lie in this folder, each text under the name of its role; each is
    said.
    """
    theirs.rename(tmp_path / "ckpt56b")
    for which in TEXTS:
        (tmp_path / "data" / which).mkdir(parents=True)
        shutil.copy(TEXT, tmp_path / "data" / which / "a.txt")
    shutil.copytree(tmp_path / "data" / "train", tmp_path / "data" / "training")  # another name
    (tmp_path / "data" / "train" / "a.txt").rename(tmp_path / "data" / "train.txt")
    (tmp_path / "data" / "train").rmdir()
    monkeypatch.chdir(tmp_path)
    few = ("--length", 64, "--device", "cpu")
    run("score", "--samples", 8, "--block-samples", 4, "--no-curves", *few)
    assert "calibration text: data/calibration" in capsys.readouterr().err
    run(
        "search",
        "--budget",
        "96%",
        "--multiple",
        8,
        "--candidates",
        2,
        "--validation-blocks",
        4,
        "--top",
        1,
        *few,
    )
    assert "validation text: data/validation" in capsys.readouterr().err
    run(
        "distill",
        "--teacher",
        "ckpt56b",
        "--tokens",
        512,
        "--batch",
        4,
        "--learning-rate",
        "5e-4",
        *few,
    )
    said = capsys.readouterr().err
    assert "train text: data/train.txt" in said
    assert "validation text: data/validation" in said
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "x"}\n')
    run("adapt", "ckpt56b", "--run", "other", *few, code=2)
    assert "data/train.jsonl, data/train.txt" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "which"), [((), "train"), (("--data", TEXT), "validation")])
def test_distill_asks_for_both_texts_before_it_cuts(given, which, scored, capsys):
    run("distill", "--run", scored, *given, "--device", "cpu", code=2)
    assert f"error: Which {which} text?" in capsys.readouterr().err
    assert not (scored / "candidates").exists()


@pytest.mark.parametrize("which", TEXTS)
def test_a_recipe_and_python_ask_as_well(which, theirs, tmp_path):
    named = {each: str(TEXT) for each in TEXTS if each != which}
    job = mp.load(theirs, run=tmp_path / "run", device="cpu", data=mp.Data(**named))
    with pytest.raises(mp.UserError, match=f"Which {which} text"):
        job.text(which)
    (tmp_path / "recipe.yaml").write_text(
        f"checkpoint: {theirs}\nsearch: {{budget: 90%}}\ndata:"
        f" {{{', '.join(f'{k}: {v}' for k, v in named.items())}}}\n"
    )
    run("run", tmp_path / "recipe.yaml", "--run", tmp_path / "other", code=2)
    assert not (tmp_path / "other" / "scores.safetensors").exists()


def test_the_demos_teacher_has_its_own_and_says_so(tmp_path, capsys):
    copy = shutil.copytree(
        embedded.teacher_path(), tmp_path / "copy"
    )  # it is known by what is in it
    for path in ("embedded", copy):
        job = mp.load(
            path, run=tmp_path / f"run-{path == copy}", device="cpu", data=mp.Data(length=64)
        )
        for which in TEXTS:
            assert job.text_parts(which)[0].path == embedded.text_path(which)
            assert (
                f"{which} text: {embedded.text_path(which)} (the demo's)" in capsys.readouterr().err
            )


def test_the_demos_text_is_for_models_with_its_tokenizer(theirs, tmp_path, capsys):
    """Named, it serves a model that was trained with that tokenizer (recipes/llama.yaml), and no
    other.
    """
    job = mp.load(theirs, run=tmp_path / "run", device="cpu", data=mp.Data(calibration="embedded"))
    assert job.text_parts("calibration")[0].path == embedded.text_path("calibration")
    other = shutil.copytree(theirs, tmp_path / "other")
    train_tokenizer(["some other words"] * 9, 300).save(str(other / "tokenizer.json"))
    capsys.readouterr()
    run("score", other, "--run", tmp_path / "new", "--data", "embedded", "--device", "cpu", code=2)
    assert (
        "The demo's calibration text is for models with the demo's tokenizer"
        in capsys.readouterr().err
    )
    with pytest.raises(mp.UserError, match="Which train text"):
        text_parts("train", "", job.tokenizer, tmp_path)


@pytest.mark.parametrize(
    "words",
    [("eval", "theirs"), ("score",), ("profile",), ("search", "--budget", "90%"), ("adapt",)],
)
def test_a_checkpoint_that_is_not_named_is_asked_for(words, theirs, tmp_path, monkeypatch, capsys):
    """`eval X` in a fresh folder compared it with the demo's teacher, and wrote a run directory
    about that.
    """
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    run(*[theirs if word == "theirs" else word for word in words], "--device", "cpu", code=2)
    said = capsys.readouterr().err
    assert "error: Which checkpoint?" in said
    assert "none named, none in" in said
    assert "minipuzzle demo" in said
    assert list((tmp_path / "fresh").iterdir()) == []
    with pytest.raises(mp.UserError, match="Which checkpoint"):
        mp.load()


def test_eval_compares_with_the_parent_that_is_named(theirs, tmp_path, monkeypatch):
    other = save(shaken(tiny(), seed=3), tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    run("eval", other, "--parent", theirs, *FAST["eval"])
    assert [row["path"] for row in read_json(tmp_path / "minipuzzle-run/eval.json")["rows"]] == [
        str(theirs),
        str(other),
    ]
    assert RunDir(tmp_path / "minipuzzle-run").parent == theirs


@pytest.mark.parametrize("missing", ["train", "validation", "tokenizer"])
def test_pretrain_asks_before_it_trains(missing, tmp_path, capsys):
    named = {"train": TEXT, "validation": TEXT}
    named.pop(missing, None)
    (tmp_path / "r.yaml").write_text(
        "model: {model_type: llama, vocab_size: 4096, hidden_size: 32, intermediate_size: 32,"
        " num_hidden_layers: 1,\n        num_attention_heads: 2, num_key_value_heads: 2,"
        " rms_norm_eps: 1.0e-5}\ntraining: {tokens: 256}\ndata: {length: 16,"
        f" {', '.join(f'{k}: {v}' for k, v in named.items())}}}\n"
        + ("" if missing == "tokenizer" else "tokenizer: embedded\n")
    )
    run("pretrain", tmp_path / "r.yaml", "--run", tmp_path / "run", code=2)
    assert missing in capsys.readouterr().err
    assert not (tmp_path / "run" / "pretrain").exists()
