"""A Llama, an OLMo 2 and a Mamba-2, tiny and random, through every command; transformers loads the
student and says the same.
"""

import json
import shutil

import pytest
import torch
from conftest import VOCAB
from family_models import theirs_of
from helpers import FAST, TEXT, run
from transformers import AutoModelForCausalLM

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {
    **SIZES,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}
OLMO2 = {name: value for name, value in LLAMA.items() if name != "rope_parameters"}
MAMBA2 = {
    **SIZES,
    "num_hidden_layers": 5,
    "num_heads": 8,
    "head_dim": 8,
    "n_groups": 2,
    "state_size": 8,
    "chunk_size": 32,
    "tie_word_embeddings": True,
}
QWEN3_MOE = {
    **OLMO2,
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
}
RUNS = {
    "qwen3_next": (
        {**QWEN3_MOE, **DELTA, "shared_expert_intermediate_size": 32},
        ("--budget", "80%", "--vary", "value_dim=8,16", "--vary", "key_dim=4,8"),
    ),
    "llama": (LLAMA, ("--budget", "94%", "--method", "solver", "--kv-heads", "--refine", 4)),
    "olmo2": (OLMO2, ("--budget", "90%", "--kv-heads", "--hidden-size")),
    "qwen3_moe": (QWEN3_MOE, ("--budget", "72%", "--vary", "experts", "--vary", "top_k")),
    "mamba2": (MAMBA2, ("--budget", "93%", "--mamba-heads")),
}
SEARCH = (
    "--multiple",
    8,
    "--candidates",
    4,
    "--validation-blocks",
    4,
    "--top",
    2,
    "--length",
    64,
    "--device",
    "cpu",
)
DISTILL = ("--tokens", 2048, "--short-tokens", 512, "--length", 64, "--batch", 4, "--device", "cpu")


@pytest.mark.parametrize("name", RUNS)
def test_from_checkpoint_to_student(name, tmp_path, capsys):
    fields, options = RUNS[name]
    parent, folder = tmp_path / name, tmp_path / "run"
    teacher = theirs_of(name, fields)
    with torch.no_grad():
        teacher.get_input_embeddings().weight.mul_(4)  # a random model that has an opinion
    teacher.save_pretrained(parent)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded.teacher_path() / file, parent / file)
    text = tmp_path / "short.txt"
    text.write_text(TEXT.read_text()[:9000])
    run("score", parent, "--run", folder, *FAST["score"], "--data", text)
    run("search", "--run", folder, "--data", text, *SEARCH, *options)
    assert f"search: {name}: blocks of one kind keep one size" in " ".join(
        capsys.readouterr().err.split()
    )
    run("distill", "--run", folder, "--data", text, "--validation", text, *DISTILL)
    run("eval", "--run", folder, "--data", text, "--length", 64, "--device", "cpu")
    student = Checkpoint.open(folder / "student")
    assert student.config["model_type"] == name
    assert student.parameters < Checkpoint.open(parent).parameters
    assert student.architecture != Checkpoint.open(parent).architecture
    rows = json.loads((folder / "eval.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["teacher", "pruned", "student"]
    assert rows[2]["kl"] < rows[1]["kl"]
    capsys.readouterr()
    run("export", "--run", folder, "--json")
    verdicts = {
        row["engine"]: row["loads"] for row in json.loads(capsys.readouterr().out)["engines"]
    }
    assert verdicts["transformers"] == "yes"
    if verdicts["llama.cpp"] == "yes":
        run("export", "--run", folder, "--gguf", tmp_path / "student.gguf")
    assert (tmp_path / "student.gguf").exists() == (name == "llama")
    theirs = AutoModelForCausalLM.from_pretrained(folder / "student").eval()
    assert sum(p.numel() for p in theirs.parameters()) == student.parameters
    tokens = torch.randint(0, VOCAB, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (
            theirs(tokens, use_cache=False).logits - load_model(student).eval()(tokens)
        ).abs().max() < 1e-4


def test_config_alone_says_what_cannot_be_pruned(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "model_type": "llama"}))
    run("inspect", tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    assert "*-*-*-*-" in out
    assert "not pruned: single blocks can't go, only whole layers" in out
    run("search", tmp_path, "--budget", "95%", "--multiple", 8)
    assert "not pruned: blocks of one kind keep one size" in " ".join(
        capsys.readouterr().out.split()
    )
