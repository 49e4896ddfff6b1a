"""Adapters on disk: merged, compact, of another checkpoint, damaged."""

import json

import pytest
import torch
from adapted_models import MASKS, adapted, saved_of, shake, tokens_of
from conftest import save, shaken, tiny

from minipuzzle.adapters import attach, make_plan, merge, open_adapter, read_adapter
from minipuzzle.adapters.merge import MARK
from minipuzzle.adapters.saved import SavedAdapter
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.model import load_model


@pytest.mark.parametrize("mask", MASKS[:6])
def test_merge_equals_unmerged_and_is_refused_twice(mask, tmp_path):
    base = Checkpoint.open(save(shaken(tiny("M-M*-M*-")).double(), tmp_path / "base"))
    model = load_model(base, dtype=torch.float64)
    attach(model, make_plan(model.architecture, mask, rank=3, target="qkv,o,mamba,mlp")).double()
    shake(model.adapters)
    saved_of(model, base.fingerprint).write(tmp_path / "adapter.safetensors")
    saved = open_adapter(tmp_path / "adapter.safetensors", base)
    assert merge(base, saved, tmp_path / "merged") < 1e-12
    merged = Checkpoint.open(tmp_path / "merged")
    tokens = tokens_of(model)
    want, got = model(tokens), load_model(merged, dtype=torch.float64)(tokens)
    assert (want - got).abs().max() <= 1e-12 * want.abs().max()
    assert json.loads((tmp_path / "merged/config.json").read_text())[MARK] == [saved.fingerprint]
    with pytest.raises(UserError, match="already"):
        merge(merged, saved, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_an_adapter_of_another_checkpoint_or_model_is_refused(tmp_path):
    model = adapted("tl6")
    base = Checkpoint.open(save(shaken(tiny("M-M*-M*-", vocab=4096), seed=5), tmp_path / "base"))
    saved_of(model, "0123456789abcdef").write(tmp_path / "adapter.safetensors")
    with pytest.raises(UserError, match="another checkpoint"):
        merge(base, open_adapter(tmp_path / "adapter.safetensors", base), tmp_path / "merged")
    other = Checkpoint.open(save(shaken(tiny("M-M-M*-", vocab=4096)), tmp_path / "other"))
    with pytest.raises(UserError, match="another model"):
        open_adapter(tmp_path / "adapter.safetensors", other)


def test_the_compact_file_holds_shared_tensors_once(tmp_path):
    file = tmp_path / "adapter.safetensors"
    for mask, exact in (("tl6", True), ("lora", False)):
        saved = saved_of(adapted(mask), "base")
        saved.write(file)
        again = read_adapter(file)
        assert again.plan == saved.plan
        assert again.fingerprint == saved.fingerprint
        assert all(
            torch.equal(again.tensors[name], tensor) for name, tensor in saved.tensors.items()
        )
        if exact:
            stored = sum(t.numel() for t in again.tensors.values())
            assert stored == saved.plan.trainable < 0.6 * saved.plan.lora


def test_damaged_adapter_files_are_refused(tmp_path):
    file = tmp_path / "adapter.safetensors"
    saved = saved_of(adapted("tl5"), "base")
    extra = next(iter(saved.plan.groups)).name + ".u"
    broken = SavedAdapter(
        plan=saved.plan, tensors={**saved.tensors, extra: torch.full((3, 3), 2.0)}, base="base"
    )
    broken.write(file)
    with pytest.raises(UserError, match="does not hold the factors") as caught:
        read_adapter(file)
    assert "a frozen u or v is 1" in caught.value.allowed
    saved.write(file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="not an adapter of ours"):
        read_adapter(file)
    with pytest.raises(UserError, match="not an adapter of ours"):
        read_adapter(tmp_path)
