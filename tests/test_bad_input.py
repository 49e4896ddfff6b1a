"""Each mistake a user can make: four parts, exit code 2, nothing half-written."""

import json
import os
import shutil

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, run
from safetensors.torch import load_file, save_file

from minipuzzle.artifacts import write_atomic
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.errors import UserError


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must be refused; the message must hold all the given words and its four
    parts.
    """

    def check(*words, says):
        before = {p for p in tmp_path.rglob("*") if "run" not in p.parts}
        run(*words, code=2)
        message = capsys.readouterr().err
        for part in ("error:", "got:", "allowed:", "next:"):
            assert part in message
        assert "Traceback" not in message
        for word in [says] if isinstance(says, str) else says:
            assert word in message, message
        assert {p for p in tmp_path.rglob("*") if "run" not in p.parts} == before
        assert not [p for p in tmp_path.rglob(".*") if p.name.endswith((".tmp", ".old"))]

    return check


def edit(checkpoint, change):
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")


def config(checkpoint, **fields):
    file = checkpoint / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def score(checkpoint, tmp_path, *more):
    return ("score", checkpoint, "--run", tmp_path / "run", *FAST["score"], *more)


def test_missing_shard(checkpoint, tmp_path, refused):
    parent = Checkpoint.open(checkpoint)
    write_checkpoint(
        tmp_path / "shards",
        parent.architecture,
        parent.tensor,
        source=parent,
        config=parent.config,
        shard_bytes=100_000,
    )
    (tmp_path / "shards" / "model-00002-of-00008.safetensors").unlink(missing_ok=True)
    victim = sorted((tmp_path / "shards").glob("model-00001*"))[0]
    victim.unlink()
    refused(*score(tmp_path / "shards", tmp_path), says=["shard", "missing"])


def test_truncated_shard(checkpoint, tmp_path, refused):
    file = checkpoint / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)
    refused(*score(checkpoint, tmp_path), says="truncated")
    os.truncate(file, 5)
    refused(*score(checkpoint, tmp_path), says="truncated")


def test_wrong_shape(checkpoint, tmp_path, refused):
    edit(checkpoint, lambda t: t.update({"backbone.norm_f.weight": torch.ones(7)}))
    refused(*score(checkpoint, tmp_path), says=["wrong shape", "(7,)", "(32,)"])


def test_missing_tensor(checkpoint, tmp_path, refused):
    edit(checkpoint, lambda t: t.pop("backbone.layers.0.mixer.D"))
    refused(*score(checkpoint, tmp_path), says=["backbone.layers.0.mixer.D", "missing"])


def test_unexpected_tensor(checkpoint, tmp_path, refused):
    edit(checkpoint, lambda t: t.update({"backbone.extra": torch.ones(1)}))
    refused(*score(checkpoint, tmp_path), says="backbone.extra")


def test_nan_weights(checkpoint, tmp_path, refused):
    edit(
        checkpoint,
        lambda t: t["backbone.layers.1.mixer.up_proj.weight"].view(-1)[3:5].fill_(float("nan")),
    )
    refused(*score(checkpoint, tmp_path), says=["NaN", "2 of", "up_proj"])


def test_unknown_model_type(checkpoint, tmp_path, refused):
    config(checkpoint, model_type="nemotron_x")
    refused(*score(checkpoint, tmp_path), says=["nemotron_x", "nemotron_h"])
    refused("inspect", checkpoint, says="nemotron_x")


def test_unknown_letter_in_the_pattern(checkpoint, refused):
    config(checkpoint, hybrid_override_pattern="M-M*XM-")
    refused("inspect", checkpoint, says=["'X'", "position 4"])


def test_pattern_of_another_length(checkpoint, refused):
    config(checkpoint, hybrid_override_pattern="M-M*")
    refused("inspect", checkpoint, says=["4 letters", "7"])


def test_no_checkpoint(tmp_path, refused):
    refused("inspect", tmp_path / "nothing", says="config.json")


def test_pickled_weights_are_never_read(checkpoint, tmp_path, refused):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    refused(*score(checkpoint, tmp_path), says=["pytorch_model.bin", "never read"])


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (["1k"], ["smallest reachable", "parameters"]),
        (["0.01MiB"], ["smallest reachable", "GiB"]),
        (["47B"], "nothing needs pruning"),
        (["100%"], "nothing needs pruning"),
        (["much"], "not a budget"),
        (["-3B"], "not a budget"),
        (["12 bananas"], "not a budget"),
        ([], "no budget"),
    ],
)
def test_budgets(checkpoint, tmp_path, refused, budget, says):
    (checkpoint / "model.safetensors").unlink()
    options = [word for text in budget for word in ("--budget", text)]
    refused("search", checkpoint, *options, says=says)


def test_empty_text(checkpoint, tmp_path, refused):
    (tmp_path / "empty.txt").write_text("  \n ")
    refused(*score(checkpoint, tmp_path, "--data", tmp_path / "empty.txt"), says="holds no text")


def test_short_text(checkpoint, tmp_path, refused):
    (tmp_path / "short.txt").write_text("Fellow citizens.")
    refused(
        *score(checkpoint, tmp_path, "--data", tmp_path / "short.txt"),
        says=["shorter than a block", "tokens"],
    )


def test_tokenizer_of_another_vocabulary(tmp_path, refused):
    small = save(shaken(tiny(vocab=1000)), tmp_path / "small")
    refused(*score(small, tmp_path), says=["another vocabulary", "4,096", "1,000"])


def test_no_tokenizer(checkpoint, tmp_path, refused):
    (checkpoint / "tokenizer.json").unlink()
    refused(*score(checkpoint, tmp_path), says="no tokenizer")


def test_student_and_teacher_of_different_vocabularies(checkpoint, tmp_path, refused, capsys):
    run(*score(checkpoint, tmp_path))
    run("search", "--run", tmp_path / "run", *FAST["search"])
    other = save(shaken(tiny(vocab=5000)), tmp_path / "other")
    capsys.readouterr()
    refused(
        "distill",
        "--run",
        tmp_path / "run",
        "--teacher",
        other,
        *FAST["distill"],
        says=["vocabular", "5,000"],
    )


def test_run_directory_of_another_checkpoint(checkpoint, tmp_path, refused, capsys):
    run(*score(checkpoint, tmp_path))
    other = save(shaken(tiny("M-M-")), tmp_path / "other")
    capsys.readouterr()
    refused(*score(other, tmp_path), says="belongs to another checkpoint")


def test_stages_out_of_order(checkpoint, tmp_path, refused):
    refused(
        "search",
        checkpoint,
        "--run",
        tmp_path / "run",
        *FAST["search"],
        says=["no scores", "minipuzzle score"],
    )


def test_unknown_recipe_key(tmp_path, refused):
    (tmp_path / "r.yaml").write_text("serch:\n  budget: 83%\n")
    refused("run", tmp_path / "r.yaml", says=["serch", "Did you mean 'search'"])
    (tmp_path / "r.yaml").write_text("search:\n  candidates: many\n")
    refused("run", tmp_path / "r.yaml", says=["candidates", "int"])
    refused("run", tmp_path / "none.yaml", says="no such recipe")


def test_bad_settings(checkpoint, tmp_path, refused):
    refused(*score(checkpoint, tmp_path, "--estimator", "middle"), says=["middle", "minitron"])
    refused(*score(checkpoint, tmp_path, "--metric", "mae"), says="logit-mse")
    refused(*score(checkpoint, tmp_path, "--iterative", 7), says="at most 6")
    refused("inspect", checkpoint, "--weights", "fp3", says=["fp3", "nvfp4"])
    refused(*score(checkpoint, tmp_path, "--device", "cuda:7"), says="device")


@pytest.mark.parametrize("small_disk", ["200k"], indirect=True)
def test_full_disk(checkpoint, small_disk, refused):
    refused(*score(checkpoint, small_disk), says="Could not write")
    kept = small_disk / "kept.json"
    write_atomic(kept, b"{}")
    parent = Checkpoint.open(checkpoint)
    with pytest.raises(UserError, match="Could not write"):
        write_checkpoint(
            small_disk / "student",
            parent.architecture,
            parent.tensor,
            source=parent,
            config=parent.config,
        )
    with pytest.raises(UserError, match="Could not write"):
        write_atomic(kept, b"x" * 500_000)
    assert kept.read_bytes() == b"{}"
    leftovers = [p.name for p in small_disk.rglob("*") if p.name.startswith(".")]
    assert not leftovers
    assert shutil.disk_usage(small_disk).used < 150_000
