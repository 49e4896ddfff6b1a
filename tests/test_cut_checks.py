"""Checks after a cut, each seen to find its fault: bytes, parameters, sizes, one tensor in two
shards, whole heads.
"""

import json
from dataclasses import replace

import pytest
import torch
from conftest import save, shaken, tiny
from family_models import FORMS
from safetensors.torch import load_file, save_file

from minipuzzle import families, surgery
from minipuzzle.arch import Rules, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import InternalError, UserError
from minipuzzle.families._rules import WHOLE_HEADS
from minipuzzle.settings import SearchSettings
from minipuzzle.space import bounds, levels


@pytest.fixture
def parent(tmp_path):
    return Checkpoint.open(save(shaken(tiny("M-*-")), tmp_path / "parent"))


def narrow(architecture):
    return Selection(
        blocks=tuple(
            {"intermediate": tuple(range(32))} if b.kind == "mlp" else {}
            for b in architecture.blocks
        )
    )


def after_writing(monkeypatch, change):
    """A fault of the writer: ``change`` gets the folder that was just written."""
    write = surgery.write_checkpoint

    def faulty(path, *args, **kwargs):
        write(path, *args, **kwargs)
        change(path)

    monkeypatch.setattr(surgery, "write_checkpoint", faulty)


def rewrite(path, change):
    file = path / "model.safetensors"
    tensors = load_file(file)
    save_file({name: change(name, tensor) for name, tensor in tensors.items()}, file)


def test_a_file_of_another_dtype_is_not_what_was_planned(parent, tmp_path, monkeypatch):
    whole = surgery.cut(parent, narrow(parent.architecture), tmp_path / "right")
    assert whole.bytes == 4 * whole.parameters
    half = lambda name, t: t.bfloat16() if name.endswith("norm_f.weight") else t  # noqa: E731
    after_writing(monkeypatch, lambda path: rewrite(path, half))
    with pytest.raises(InternalError, match="not what was planned: bytes of tensors") as caught:
        surgery.cut(parent, narrow(parent.architecture), tmp_path / "wrong")
    assert str(caught.value).endswith(f"is {whole.bytes - 2 * 32}, planned {whole.bytes}")


def test_a_file_with_other_sizes_is_not_what_was_planned(parent, tmp_path, monkeypatch):
    def wider(path):
        for name in ("config.json", "model.safetensors"):
            (path / name).write_bytes((parent.path / name).read_bytes())

    after_writing(monkeypatch, wider)
    with pytest.raises(InternalError, match="not what was planned: parameters") as caught:
        surgery.cut(parent, narrow(parent.architecture), tmp_path / "wrong")
    assert f" is {parent.parameters}, planned" in str(caught.value)


def test_a_file_of_another_architecture_is_not_what_was_planned(parent, tmp_path, monkeypatch):
    """As many parameters and bytes, and another epsilon."""

    def other(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.5}))

    after_writing(monkeypatch, other)
    with pytest.raises(InternalError, match="not what was planned: architecture"):
        surgery.cut(parent, narrow(parent.architecture), tmp_path / "wrong")


def test_the_kept_channels_are_the_selections(parent, tmp_path):
    """Rows and columns by numpy's own indexing."""
    kept = tuple(range(1, 64, 2))
    chosen = Selection(
        blocks=tuple(
            {"intermediate": kept} if b.kind == "mlp" else {} for b in parent.architecture.blocks
        )
    )
    cut = surgery.cut(parent, chosen, tmp_path / "cut")
    for index, block in enumerate(parent.architecture.blocks):
        if block.kind == "mlp":
            for part, rows in (("up_proj", True), ("down_proj", False)):
                name = f"blocks.{index}.{part}.weight"
                whole = parent.tensor(name).numpy()
                want = whole[list(kept)] if rows else whole[:, list(kept)]
                assert (cut.tensor(name).numpy() == want).all()


def test_one_tensor_in_two_shards(parent, tmp_path):
    tensors = load_file(parent.path / "model.safetensors")
    folder = parent.path
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:-1]}, folder / "a.safetensors")
    save_file({name: tensors[name] for name in names[-2:]}, folder / "b.safetensors")
    (folder / "model.safetensors").unlink()
    where = dict.fromkeys(names[:-1], "a.safetensors") | {names[-1]: "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )
    with pytest.raises(UserError, match="two shards") as caught:
        Checkpoint.open(folder)
    assert names[-2] in caught.value.got
    save_file({names[-1]: tensors[names[-1]]}, folder / "b.safetensors")
    assert torch.equal(Checkpoint.open(folder).tensor("head.weight"), tensors["lm_head.weight"])


def test_whole_heads_keep_the_hidden_size_a_multiple_of_the_query_heads():
    llama = families.find("llama").architecture(
        {**next(iter(FORMS["llama"].values())), "num_hidden_layers": 2}
    )
    assert WHOLE_HEADS in llama.rules.multiples
    heads = next(b.q_heads for b in llama.blocks if b.kind == "attention")
    sizes = bounds(llama, levels([])[2], SearchSettings(multiple=8, hidden_size=True)).hidden
    assert all(size % heads == 0 for size in sizes)
    free = [size for size in range(8, llama.hidden, 8) if Rules().allows_hidden(llama.blocks, size)]
    held = [
        size for size in free if Rules(multiples=(WHOLE_HEADS,)).allows_hidden(llama.blocks, size)
    ]
    assert held == [size for size in free if size % heads == 0]
    three = [
        replace(b, q_heads=3, kv_heads=1) if b.kind == "attention" else b for b in llama.blocks
    ]
    assert not Rules(multiples=(WHOLE_HEADS,)).allows_hidden(three, 40)
    assert Rules(multiples=(WHOLE_HEADS,)).allows_hidden(three, 24)
    assert Rules().allows_hidden(three, 40)
    assert Rules(multiples=(WHOLE_HEADS,)).allows_hidden(three, llama.hidden)  # as it is, it stays
    assert "whole multiple of the query heads" in " ".join(llama.rules.sentences())
