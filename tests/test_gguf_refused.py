"""What GGUF or llama.cpp has no place for is refused, and leaves nothing behind."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from conftest import VOCAB, save, shaken, tiny
from family_models import FORMS, theirs_of
from helpers import run

from minipuzzle import embedded
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.export.gguf import export_gguf


@pytest.mark.parametrize(
    ("family", "form", "says"),
    [
        ("llama", "yarn", "rope_type yarn"),
        ("llama", "dynamic, past its context", "rope_type dynamic"),
        ("qwen3", "bias", "together with biases"),
        ("mistral", "own head_dim, window", "a sliding window"),
        ("smollm3", "plain", "smollm3"),
        ("mamba2", "plain", "mamba2"),
        ("olmo2", "plain", "olmo2"),
    ],
)
def test_llama_types_that_are_refused(family, form, says, tmp_path, capsys):
    theirs_of(family, {**FORMS[family][form], "vocab_size": VOCAB}).save_pretrained(
        tmp_path / "model"
    )
    shutil.copy(embedded.teacher_path() / "tokenizer.json", tmp_path / "model")
    with pytest.raises(UserError) as caught:
        export_gguf(Checkpoint.open(tmp_path / "model"), tmp_path / "x.gguf")
    assert says in str(caught.value)
    run("export", tmp_path / "model", "--json")
    rows = {row["engine"]: row for row in json.loads(capsys.readouterr().out)["engines"]}
    assert (rows["transformers"]["loads"], rows["llama.cpp"]["loads"]) == ("yes", "no")
    assert says in rows["llama.cpp"]["how"]


MAMBAS = tiny("MM*-").blocks
REFUSED = {
    "Mamba-2 sizes that differ": ((MAMBAS[0], replace(MAMBAS[1], heads=4)), "heads"),
    "a bias of projections": ((replace(MAMBAS[0], proj_bias=True),), "use_bias"),
    "no Mamba-2": (MAMBAS[2:], "no Mamba-2 block"),
    "no attention": (MAMBAS[:2], "no attention block"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_has_no_place_for(what, tmp_path):
    blocks, says = REFUSED[what]
    path = save(
        shaken(Architecture(vocab_size=VOCAB, hidden=32, blocks=blocks)), tmp_path / "model"
    )
    with pytest.raises(UserError, match="no place") as caught:
        export_gguf(Checkpoint.open(path), tmp_path / "out" / "x.gguf")
    assert says in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_faults_are_told_and_leave_nothing_behind(checkpoint, tmp_path, monkeypatch, capsys):
    target = tmp_path / "x.gguf"
    run("export", checkpoint, "--gguf", target, "--dtype", "q4", code=2)
    assert "auto, f32, f16, bf16, q8_0" in capsys.readouterr().err
    target.write_text("a letter")
    run("export", checkpoint, "--gguf", target, code=2)
    assert target.read_text() == "a letter"
    target.unlink()
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    run("export", checkpoint, "--gguf", target, code=2)
    assert "no name for the way this tokenizer.json splits" in capsys.readouterr().err
    (checkpoint / "tokenizer.json").unlink()
    run("export", checkpoint, "--gguf", target, code=2)
    assert "Copy the model's tokenizer.json" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gguf", None)
        run("export", checkpoint, "--gguf", target, code=2)
        assert 'pip install "minipuzzle[gguf]"' in capsys.readouterr().err
    run("export", "--run", tmp_path / "nothing", code=2)
    assert "minipuzzle distill" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"ckpt56b"}


def test_fp16_overflow_is_refused(tmp_path):
    model = shaken(tiny("M*-"))
    with torch.no_grad():
        model.blocks[2].up_proj.weight[0, 0] = 1e6
    path = save(model, tmp_path / "large")
    with pytest.raises(UserError, match="FP16 cannot hold"):
        export_gguf(Checkpoint.open(path), tmp_path / "x.gguf", "f16")
    assert not (tmp_path / "x.gguf").exists()
