"""What is refused of mixtures of experts: cuts that the router cannot bear, more choices than
experts, files that hold some experts only, and stacks beside single experts.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import run
from safetensors.torch import load_file, save_file

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.surgery import cut

PREFIX = "backbone.layers.1.mixer.experts."
SIZES = {"experts": 8, "top_k": 3, "expert_width": 16, "shared_width": 16}
GROUPS = {"router_groups": 2, "router_groups_kept": 1}


def hybrid(**sizes):
    plain = tiny("ME*EM")
    return replace(
        plain,
        blocks=tuple(
            replace(b, **SIZES | sizes) if "experts" in b.sizes else b for b in plain.blocks
        ),
    )


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Checkpoints: one group of experts, and two of which one is chosen."""
    folder = tmp_path_factory.mktemp("parents")
    save(shaken(hybrid()), folder / "plain")
    save(shaken(hybrid(**GROUPS)), folder / "groups")
    return folder


def four_parts(said):
    """The message, which must begin as an error and have all parts."""
    assert said.startswith("error: "), said
    assert all(f"\n  {part}: " in said for part in ("got", "allowed", "next")), said
    return " ".join(said.split())


SELECTED = {
    "more of one group": (
        "groups",
        {"experts": (0, 1, 2, 3, 4, 5)},
        ["equally many experts in each router group", "[4, 2]", "same number in every group"],
    ),
    "one a group": (
        "groups",
        {"experts": (0, 4), "top_k": (0,)},
        ["2 experts in 2 groups", "at least 2 experts in each group", "other indices of experts"],
    ),
    "top-k above the chosen groups": (
        "groups",
        {"experts": (0, 1, 4, 5)},
        ["3 chosen experts a token", "at most 2, the experts of the chosen groups"],
    ),
    "top-k above the experts": (
        "plain",
        {"experts": (0, 3)},
        ["3 chosen experts a token", "at most 2, the experts", "other indices of experts"],
    ),
    "the last choices": ("plain", {"top_k": (1, 2)}, ["the first", "(1, 2)", "without a gap"]),
    "channels of unequal number": (
        "plain",
        {"experts": (0, 1, 2), "experts*expert_width": (*range(16), 16, 17, 32, 33)},
        ["equally many channels in each expert", "[16, 2, 2]"],
    ),
}


@pytest.mark.parametrize("case", SELECTED)
def test_selections_that_no_router_bears(case, parents, tmp_path):
    name, kept, says = SELECTED[case]
    checkpoint = Checkpoint.open(parents / name)
    with pytest.raises(UserError) as caught:
        cut(checkpoint, Selection(blocks=({}, kept, {}, {}, {})), tmp_path / "cut")
    error = caught.value
    assert all((error.what, error.got, error.allowed, error.next))
    assert [words for words in says if words not in str(error)] == []
    assert not (tmp_path / "cut").exists()


VARIED = {
    "odd in two groups": ("groups", ["experts=5"], ["5", "multiples of 2", "--vary experts"]),
    "one a group": (
        "groups",
        ["experts=2"],
        ["experts=2", "2 experts in 2 groups", "at least 2 experts in each group", "Take 2 out"],
    ),
    "top-k above the experts": (
        "plain",
        ["experts=2,6", "top_k=3"],
        ["experts=2", "--vary experts=2,6: 3 chosen experts", "at most 2", "Take 2 out"],
    ),
    "top-k above the chosen groups": (
        "groups",
        ["experts=4", "top_k=3"],
        ["3 chosen experts", "at most 2, the experts of the chosen groups"],
    ),
    "more choices than the model has": (
        "plain",
        ["top_k=4"],
        ["top_k", "at most 3, the model's own", "--vary top_k"],
    ),
}


@pytest.mark.parametrize("case", VARIED)
def test_sizes_that_a_search_cannot_try(case, parents, tmp_path, capsys):
    name, varied, says = VARIED[case]
    shutil.copy(parents / name / "config.json", tmp_path)
    options = [word for size in varied for word in ("--vary", size)]
    run("search", tmp_path, "--budget", "99%", *options, code=2)
    said = four_parts(capsys.readouterr().err)
    assert [words for words in says if words not in said] == []


def test_a_size_that_goes_with_no_other_is_named(parents, tmp_path, capsys):
    """The budget is met with all choices kept, so that of two experts nothing can be tried."""
    shutil.copy(parents / "plain" / "config.json", tmp_path)
    run("search", tmp_path, "--budget", "99%", "--vary", "experts=2,4")
    said = " ".join(capsys.readouterr().out.split())
    assert "experts=2 is not tried: 3 chosen experts a token (at most 2, the experts)" in said
    assert "experts=4 is not tried" not in said


CONFIGS = {
    "more chosen than experts": (
        {"num_experts_per_tok": 9},
        ["9 chosen experts a token", "at most 8"],
    ),
    "groups of unequal size": ({"n_group": 3}, ["8 experts in 3 groups", "equal size"]),
    "more chosen groups than groups": ({"n_group": 2, "topk_group": 3}, ["3 are chosen from"]),
    "groups of one": ({"n_group": 8}, ["at least 2 experts in each group"]),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_contradict_themselves(case, parents, tmp_path, capsys):
    fields, says = CONFIGS[case]
    config = json.loads((parents / "plain" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    run("inspect", tmp_path, code=2)
    said = four_parts(capsys.readouterr().err)
    assert [words for words in says if words not in said] == []


def stacked(tensors):
    return torch.stack([tensors[f"{PREFIX}{e}.up_proj.weight"] for e in range(8)])


def without(tensors, *parts):
    return {n: t for n, t in tensors.items() if not n.startswith(tuple(PREFIX + p for p in parts))}


FILES = {
    "some experts": (
        lambda t: without(t, "5.", "6.", "7."),
        ["experts.5.up_proj.weight is missing", "5 of 8", "config.json must count those"],
    ),
    "no experts": (lambda t: without(t, ""), ["is missing", "missing, ", "restore both"]),
    "a stack of some": (
        lambda t: (
            without(t, *(f"{e}.up" for e in range(8)))
            | {PREFIX + "up_proj": stacked(t)[:6].clone()}
        ),
        ["experts.up_proj", "(6, 16, 32)", "(8, 16, 32)"],
    ),
    "a stack and all of them": (
        lambda t: t | {PREFIX + "up_proj": stacked(t)},
        ["twice", "experts.up_proj", "one of these names"],
    ),
    "a stack and some of them": (
        lambda t: without(t, "2.up") | {PREFIX + "up_proj": stacked(t)},
        ["in pieces too", "7 of 8", "copy or download all of them again"],
    ),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("command", ["score", "export"])
def test_files_of_some_experts_and_of_two_forms(case, command, parents, tmp_path, capsys):
    change, says = FILES[case]
    folder = tmp_path / "model"
    shutil.copytree(parents / "plain", folder)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    words = {
        "score": ["--data", "embedded", "--device", "cpu", "--run", tmp_path / "run"],
        "export": ["--gguf", tmp_path / "x.gguf", "--run", tmp_path / "run"],
    }
    run(command, folder, *words[command], code=2)
    shown = capsys.readouterr().err
    said = four_parts(shown[shown.index("error: ") :])
    assert [words for words in says if words not in said] == []


def test_up_in_a_stack_and_down_one_by_one_are_read(parents, tmp_path):
    shutil.copytree(parents / "plain", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    mixed = {n: t for n, t in tensors.items() if not (n.startswith(PREFIX) and "up_proj" in n)}
    mixed[PREFIX + "up_proj"] = stacked(tensors)
    save_file(mixed, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    one, other = (Checkpoint.open(f) for f in (parents / "plain", tmp_path / "model"))
    for name in ("blocks.1.experts.up_proj", "blocks.1.experts.down_proj"):
        assert torch.equal(one.tensor(name), other.tensor(name))
