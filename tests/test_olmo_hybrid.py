"""OLMo Hybrid's files: as published, and as transformers saves them."""

import pytest
import torch
from family_models import FORMS, theirs_of
from safetensors.torch import load_file, save_file

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.surgery import cut


def test_files_are_written_as_published_and_read_as_transformers_splits_them(tmp_path):
    """transformers 5.23 saves the convolution in three equal parts, whatever q, k and v have, and
    has its own names for norms.
    """
    theirs_of("olmo_hybrid", FORMS["olmo_hybrid"]["plain"]).save_pretrained(tmp_path / "theirs")
    read = Checkpoint.open(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "model.safetensors")
    convolved = [f"model.layers.0.linear_attn.{p}_conv1d.weight" for p in "qkv"]
    assert [len(saved[name]) for name in convolved] == [43, 43, 42]
    ours = cut(read, Selection.everything(read.architecture), tmp_path / "ours")
    written = load_file(ours.path / "model.safetensors")
    assert [len(written[name]) for name in convolved] == [24, 24, 80]
    whole = torch.cat([saved[name] for name in convolved])
    assert torch.equal(torch.cat([written[name] for name in convolved]), whole)
    norms = {name.split(".", 3)[3] for name in written if "layer_norm" in name}
    norms |= {name.split(".", 3)[3] for name in written if "layernorm" in name}
    assert norms == {
        "attention_layer_norm.weight",
        "feedforward_layer_norm.weight",
        "post_attention_layernorm.weight",
        "post_feedforward_layernorm.weight",
    }
    at = {name.split(".")[2] for name in written if "post_attention_layernorm" in name}
    assert at == {"1", "3"}  # after attention alone
    written["model.layers.0.linear_attn.v_conv1d.weight"] = whole[-79:].clone()
    save_file(written, ours.path / "model.safetensors")
    with pytest.raises(UserError, match=r"v_conv1d\.weight has the wrong shape"):
        Checkpoint.open(ours.path)  # a row is missing
