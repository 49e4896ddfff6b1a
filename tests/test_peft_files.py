"""PEFT adapters with other tensors than their config says, and edited files of ours: refused."""

import json
import math
import shutil

import pytest
import torch
from helpers import run
from peft_adapters import Q1, editor, peft_base
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from minipuzzle.adapters import attach, import_peft, make_plan, merge, read_adapter
from minipuzzle.adapters.saved import NAME, SavedAdapter
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.model import load_model

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, on fields that it ignores


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return peft_base(tmp_path_factory.mktemp("peft"))


@pytest.fixture
def edited(base, tmp_path):
    return editor(base, tmp_path)


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): t for name, t in tensors.items()}


def changed(key, value):
    return lambda tensors: {n: value(t) if key in n else t for n, t in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            lambda t: {n: v for n, v in t.items() if "layers.1.self_attn.q" not in n},
            "does not adapt",
        ),
        (
            lambda t: {n: v for n, v in t.items() if "layers.1.self_attn.q_proj.lora_A" not in n},
            "half",
        ),
        (
            lambda t: {**t, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)},
            "does not have",
        ),
        (
            lambda t: {**t, f"base_model.model.{Q1}.lora_magnitude_vector": torch.ones(32)},
            "not have",
        ),
        (
            lambda t: {**t, f"base_model.model.{Q1}.base_layer.bias": torch.ones(32)},
            "does not have",
        ),
        (renamed("lora_A.weight", "lora_A.default.weight"), "does not have"),
        (renamed("layers.1.", "layers.7."), "does not have"),
        (lambda t: {}, "adapts nothing"),
        (changed("1.self_attn.q_proj.lora_A", lambda v: v[:2]), "not the rank"),
        (changed("1.self_attn.q_proj.lora_B", lambda v: v[:, :2]), "not the rank"),
        (changed("1.self_attn.q_proj.lora_B", lambda v: v.flatten()), "not the rank"),
        (changed("1.self_attn.q_proj.lora_A", lambda v: v[:, :8]), "another model"),
        (changed("1.self_attn.q_proj.lora_B", lambda v: v[:8]), "another model"),
        (changed("q_proj.lora_A", lambda v: v * math.nan), "no finite"),
        (changed("q_proj.lora_B", lambda v: v + math.inf), "no finite"),
        (changed("q_proj.lora_B", lambda v: v.int()), "no finite"),
    ],
)
def test_other_tensors_than_the_config_says_are_refused(tensors, says, base, edited):
    with pytest.raises(UserError, match=says):
        import_peft(edited(tensors=tensors), Checkpoint.open(base / "base"))


def test_alphas_that_are_close_are_not_the_same(base, edited):
    folder = edited({"alpha_pattern": {"layers.1.self_attn.q_proj": 8.0000001}})
    alphas = {lora.alpha for lora in import_peft(folder, Checkpoint.open(base / "base")).loras()}
    assert alphas == {8.0, 8.0000001}


def test_a_merge_beyond_the_dtype_is_refused(base, edited, tmp_path):
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base / "base", dtype=torch.float16).save_pretrained(half)
    checkpoint = Checkpoint.open(half)
    with pytest.raises(UserError, match=r"beyond what torch\.float16 holds"):
        merge(checkpoint, import_peft(edited({"lora_alpha": 1e9}), checkpoint), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def own_file(base, folder):
    """An adapter of ours on q_proj: its file, its header, its tensors."""
    checkpoint = Checkpoint.open(base / "base")
    model = load_model(checkpoint)
    adapters = attach(model, make_plan(model.architecture, "lora", rank=2, target="q"))
    SavedAdapter(plan=adapters.plan, tensors=adapters.tensors(), base=None).write(folder / NAME)
    with safe_open(folder / NAME, framework="pt") as opened:
        return folder / NAME, json.loads(opened.metadata()["minipuzzle"]), load_file(folder / NAME)


def test_a_file_of_ours_that_was_edited_is_refused(base, tmp_path):
    file, header, tensors = own_file(base, tmp_path)
    assert read_adapter(tmp_path).plan.groups[0].rank == 2
    group = header["groups"][0]
    site = group["sites"][0]
    headers = [
        [],
        "x",
        {**header, "format": "other"},
        {**header, "groups": 3},
        {**header, "adapter": 7},
        {**header, "adapter": "tied:Q"},
        {**header, "base": 3},
        {"format": header["format"]},
        *(
            {**header, "groups": [{**group, **change}]}
            for change in (
                {"rank": 0},
                {"rank": "2"},
                {"alpha": math.nan},
                {"alpha": None},
                {"sites": []},
                {"d_in": -1},
                {"sites": [{**site, "rows": [1]}]},
                {"sites": [{**site, "rows": []}]},
                {"sites": [{**site, "block": -1}]},
                {"sites": [{**site, "projections": [3]}]},
                {"sites": [{**site, "projections": []}]},
                {"sites": "x"},
            )
        ),
    ]
    for wrong in headers:
        save_file(tensors, file, metadata={"minipuzzle": json.dumps(wrong)})
        with pytest.raises(UserError):
            read_adapter(tmp_path)
    odd = {**group, "unknown": 1}  # of a later version, without meaning here
    save_file(tensors, file, metadata={"minipuzzle": json.dumps({**header, "groups": [odd]})})
    assert read_adapter(tmp_path).plan.groups[0].rank == 2
    nan = {name: tensor * math.nan for name, tensor in tensors.items()}
    save_file(nan, file, metadata={"minipuzzle": json.dumps(header)})
    with pytest.raises(UserError, match="no finite numbers"):
        read_adapter(tmp_path)


def test_merge_replaces_no_checkpoint_by_chance(base, tmp_path, capsys):
    """Not its own base, and no adapter into a checkpoint, which transformers would load with it."""
    other = shutil.copytree(base / "base", tmp_path / "other")
    run("merge", base / "base", base / "plain", "--out", base / "base", code=2)
    for form in ("peft", "compact"):
        run("merge", base / "base", base / "plain", "--export", form, "--out", other, code=2)
    assert {p.name for p in other.iterdir()} == {p.name for p in (base / "base").iterdir()}
    run("merge", base / "base", base / "plain", "--export", "compact", "--out", tmp_path / "new")
    run("adapt", base / "base", "--alpha", "nan", code=2)
    assert "--alpha is out of bounds" in capsys.readouterr().err


def test_a_list_of_merged_adapters_that_was_edited_is_refused(base, edited, tmp_path):
    checkpoint = Checkpoint.open(base / "base")
    saved = import_peft(edited(), checkpoint)
    for wrong in (3, "abc", [1], {"a": 1}):
        checkpoint.config["minipuzzle_merged"] = wrong
        with pytest.raises(UserError, match="minipuzzle_merged"):
            merge(checkpoint, saved, tmp_path / "merged")
