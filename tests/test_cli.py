"""The commands as people type them."""

import csv
import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint


def json_of(capsys, *words):
    capsys.readouterr()
    run(*words, "--json")
    return json.loads(capsys.readouterr().out)


def test_score_search_distill_in_that_very_form(tmp_path, monkeypatch, capsys):
    """minipuzzle score; minipuzzle search --budget N; minipuzzle distill --teacher ckpt56b: options
    only make it small.
    """
    save(shaken(tiny("M-M*-M-", intermediate=128)), tmp_path / "ckpt56b")
    monkeypatch.chdir(tmp_path)
    run("score", *FAST["score"])
    assert "ckpt56b" in capsys.readouterr().err
    run("search", *FAST["search"], "--budget", "290k")
    run("distill", "--teacher", "ckpt56b", *FAST["distill"])
    run("eval", *FAST["eval"])
    run("report")
    folder = tmp_path / "minipuzzle-run"
    student = Checkpoint.open(folder / "student")
    assert student.parameters <= 290_000
    rows = json.loads((folder / "eval.json").read_text())["rows"]
    assert [r["name"] for r in rows] == ["teacher", "pruned", "student"]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["agreement"] == 1
    assert rows[2]["parameters"] == student.parameters
    assert rows[2]["kl"] < rows[1]["kl"]
    page = (folder / "report.html").read_text()
    assert "minipuzzle distill --teacher ckpt56b" in page
    before, after = json.loads((folder / "run.json").read_text())["stages"]["distill"][
        "long_validation_loss"
    ]
    assert f"Validation loss before and after them: {before:.4f}, {after:.4f}." in page
    theirs = AutoModelForCausalLM.from_pretrained(folder / "student", trust_remote_code=True)
    assert sum(p.numel() for p in theirs.parameters()) == student.parameters
    assert AutoTokenizer.from_pretrained(folder / "student").encode("Fellow citizens")


def test_a_stage_whose_inputs_did_not_change_is_kept(checkpoint, tmp_path, capsys):
    folder = tmp_path / "run"
    words = {
        "score": ("score", checkpoint, "--run", folder, *FAST["score"]),
        "search": ("search", "--run", folder, *FAST["search"]),
        "prune": ("prune", "--run", folder),
        "distill": ("distill", "--run", folder, *FAST["distill"]),
    }
    for command in words.values():
        run(*command)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    for name, command in words.items():
        capsys.readouterr()
        run(*command)
        assert f"{name}: nothing changed" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == before
    assert "--save-every" not in words["distill"]
    run(*words["distill"], "--save-every", 7)
    assert "distill: nothing changed" in capsys.readouterr().err
    run(*words["search"], "--candidates", 3)
    assert "nothing changed" not in capsys.readouterr().err
    assert len(json.loads((folder / "commands.json").read_text())["commands"]) == 10


def test_inspect(checkpoint, capsys):
    (checkpoint / "model.safetensors").unlink()
    facts = json_of(capsys, "inspect", checkpoint, "--context", "1M", "--batch", 2)
    assert facts["parameters"] == tiny().parameters
    assert facts["workload"]["context"] == 1_000_000
    assert facts["memory"]["total"] == sum(
        facts["memory"][k] for k in ("weights", "kv", "ssm", "conv")
    )
    run("inspect", embedded.teacher_path())
    assert "5,523,552 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["inspect", str(embedded.teacher_path())]])
def test_light_commands_load_nothing_heavy(words):
    """What takes seconds to import stays out; the time itself is in docs/results, never
    asserted.
    """
    code = (
        "import sys; from minipuzzle.cli import main; sys.argv = ['minipuzzle',"
        " *sys.argv[1:]]\ntry: main()\nfinally:\n  heavy = {'torch', 'matplotlib', 'scipy',"
        " 'tokenizers', 'transformers', 'jinja2', 'pyarrow'} & set(sys.modules)\n  assert not"
        " heavy, heavy"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    print(f"{time.monotonic() - started:.2f} s")
    assert done.returncode == 0, done.stderr


def test_launcher_and_module_work():
    for command in (["cli.py"], ["-m", "minipuzzle"]):
        done = subprocess.run(
            [sys.executable, *command, "--help"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert all(
            name in done.stdout
            for name in (
                "inspect",
                "score",
                "search",
                "prune",
                "distill",
                "eval",
                "report",
                "pretrain",
                "run",
                "demo",
            )
        )


def test_debug_shows_the_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "minipuzzle", "inspect", str(tmp_path), "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr


def test_run_a_recipe_and_pretrain(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain.yaml").write_text(
        """
model: {model_type: nemotron_h, vocab_size: 4096, hidden_size: 32,
        hybrid_override_pattern: M-M*-, intermediate_size: 128,
        num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8,
        mamba_num_heads: 8, mamba_head_dim: 8, n_groups: 2,
        ssm_state_size: 8, chunk_size: 16}
tokenizer: embedded
data: {length: 64, train: VALIDATION, validation: VALIDATION}
training: {tokens: 5120, learning_rate: 3.0e-3, batch: 4}
device: cpu
""".replace("VALIDATION", str(TEXT))
    )
    run("pretrain", "pretrain.yaml", "--run", "teacher")
    facts = json.loads((tmp_path / "teacher/model/training.json").read_text())
    log = list(csv.DictReader((tmp_path / "teacher/pretrain/log.csv").open()))
    assert facts["seconds"] == float(log[-1]["seconds"]) > 0
    assert (
        facts["validation"]["validation.txt"] < 8.32
    )  # below the log of the vocabulary: it learned
    assert (
        load_file(tmp_path / "teacher/model/model.safetensors")["lm_head.weight"].dtype
        == torch.bfloat16
    )
    (tmp_path / "recipe.yaml").write_text(
        """
checkpoint: teacher/model
device: cpu
data: {length: 64, train: VALIDATION, calibration: VALIDATION, validation: VALIDATION}
score: {samples: 8, block_samples: 4}
search: {budget: [97%, 2MiB], multiple: 8, candidates: 3, validation_blocks: 4, top: 1}
distill: {training: {tokens: 1024, batch: 4, learning_rate: 5e-4}}
""".replace("VALIDATION", str(TEXT))
    )
    result = json_of(capsys, "run", "recipe.yaml", "--run", "out")
    assert [r["name"] for r in result["rows"]] == ["teacher", "pruned", "student"]
    assert (tmp_path / "out/report.html").exists()
    shutil.rmtree(tmp_path / "out")
