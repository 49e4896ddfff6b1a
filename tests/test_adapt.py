"""minipuzzle adapt, merge and distill --adapter, as people type them."""

import json

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run

from minipuzzle import embedded
from minipuzzle.adapters import attach, make_plan, read_adapter
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks, pack
from minipuzzle.errors import UserError
from minipuzzle.model import set_precision
from minipuzzle.settings import Training
from minipuzzle.training import answers_only, next_token, train
from minipuzzle.training.optimizers import make_optimizer

FEW = ("--tokens", 2048, "--length", 64, "--batch", 4, "--device", "cpu")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def examples(tmp_path):
    words = [
        "union",
        "state",
        "congress",
        "treasury",
        "nation",
        "people",
        "commerce",
        "peace",
        "army",
        "navy",
    ]
    return write_rows(
        tmp_path / "qa.jsonl",
        [
            {"prompt": f"The {a} and the {b}. First:", "answer": f" {a}"}
            for a in words
            for b in words
        ],
    )


def test_adapt_merge_and_export(checkpoint, examples, tmp_path, capsys):
    folder = tmp_path / "run"
    run("adapt", checkpoint, "--run", folder, "--data", examples, "--rank", 2, *FEW)
    printed = capsys.readouterr().err
    assert "mamba-in_proj" in printed
    assert "of LoRA" in printed
    file = folder / "adapter/adapter.safetensors"
    saved = read_adapter(file)
    assert saved.base == Checkpoint.open(checkpoint).fingerprint
    assert any(t.abs().max() > 0 for name, t in saved.tensors.items() if name.endswith(".B"))
    run("adapt", checkpoint, "--run", folder, "--data", examples, "--rank", 2, *FEW)
    assert "nothing changed" in capsys.readouterr().err
    run("merge", checkpoint, file, "--out", tmp_path / "merged")
    run("merge", tmp_path / "merged", file, "--out", tmp_path / "twice", code=2)
    assert "already" in capsys.readouterr().err
    run("merge", checkpoint, file, "--out", tmp_path / "peft", "--export", "peft", "--json")
    assert "PEFT refuses its out_proj" in json.loads(capsys.readouterr().out)["note"]
    run("merge", checkpoint, tmp_path / "peft", "--out", tmp_path / "ours", "--export", "compact")
    again = read_adapter(tmp_path / "ours/adapter.safetensors")
    assert again.plan.trainable == again.plan.lora > saved.plan.trainable


def test_adapt_with_a_teacher_and_what_is_refused(checkpoint, examples, tmp_path, capsys):
    teacher = save(shaken(tiny("M-*-")), tmp_path / "teacher")
    for data in (TEXT, examples):
        run(
            "adapt",
            checkpoint,
            "--run",
            tmp_path / data.stem,
            "--data",
            data,
            "--teacher",
            teacher,
            "--adapter",
            "lora",
            "--target",
            "attention,in,mlp",
            *FEW,
        )
        assert read_adapter(tmp_path / data.stem / "adapter").plan.trainable > 0
    capsys.readouterr()
    run(
        "adapt",
        checkpoint,
        "--run",
        tmp_path / "x",
        "--data",
        TEXT,
        "--target",
        "gate",
        *FEW,
        code=2,
    )
    assert "matches nothing" in capsys.readouterr().err
    assert not (tmp_path / "x/adapter").exists()


def test_distill_with_an_adapter_recovers_with_the_base_frozen(checkpoint, tmp_path, capsys):
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"])
    run("distill", "--run", folder, "--adapter", "tl6", "--rank", 2, *FAST["distill"])
    assert "adapter merged" in capsys.readouterr().err
    winner = json.loads((folder / "run.json").read_text())["stages"]["distill"]["winner"]
    before, after = (
        Checkpoint.open(folder / "candidates" / winner),
        Checkpoint.open(folder / "student"),
    )
    changed = {
        n
        for n in (t.name for t in before.architecture.tensors())
        if not torch.equal(before.tensor(n), after.tensor(n))
    }
    assert changed
    assert all("_proj" in name for name in changed)
    assert read_adapter(folder / "adapter").base == before.fingerprint


def test_answers_alone_carry_the_loss(examples):
    """Against cross-entropy of each example by itself, in float64."""
    tokenizer = Tokenizer.load(embedded.teacher_path())
    blocks = load_blocks(examples, tokenizer, block_length=64)
    model = shaken(tiny("M-*-")).double()
    tokens, documents = (
        torch.from_numpy(blocks.tokens.astype("int64")),
        torch.from_numpy(blocks.documents),
    )
    found = answers_only()(model, tokens[:2], documents[:2])
    total, count = 0.0, 0
    for row, segments in zip(tokens[:2], documents[:2], strict=True):
        for k in range(int(segments.max()) // 2 + 1):
            one, answer = row[segments // 2 == k], segments[segments // 2 == k] % 2 == 1
            if answer.any():
                log_p = torch.log_softmax(model(one[None])[0].double(), -1)[:-1]
                total -= log_p[answer[1:]].gather(1, one[1:][answer[1:], None]).sum().item()
                count += int(answer.sum())
    assert found.tokens == count > 10
    assert found.total.item() == pytest.approx(total, rel=1e-6)


def test_bad_examples_are_refused(tmp_path):
    tokenizer = Tokenizer.load(embedded.teacher_path())
    good = {"prompt": "a", "answer": "b"}
    for rows, what in (
        ([good, {"prompt": "a"}], 'Line 2 .* no text in "answer"'),
        ([good, {"prompt": "a", "answer": ""}], "no conversation"),
        ([{"prompt": "word " * 99, "answer": "b"}], "longer than a block"),
    ):
        with pytest.raises(UserError, match=what):
            load_blocks(write_rows(tmp_path / "bad.jsonl", rows), tokenizer, block_length=64)


def token_blocks():
    tokens = (
        torch.randint(0, 61, (12 * 32,), generator=torch.Generator().manual_seed(0))
        .numpy()
        .astype("uint32")
    )
    return pack([tokens], block_length=32, vocab_size=61, seed=0, fingerprint="x", text_bytes=1)


def test_a_step_that_trains_nothing_stops(tmp_path):
    settings = Training(tokens=32 * 4 * 3, batch=4)
    model = shaken(tiny("M-*-", vocab=61))
    attach(model, make_plan(model.architecture, "tl6", rank=2))
    for handle in model.adapters.handles:
        handle.remove()
    with pytest.raises(UserError, match="train nothing"):
        train(model, next_token, token_blocks(), settings, tmp_path / "a", identity="x")
    model = shaken(tiny("M-*-", vocab=61))
    adapters = attach(model, make_plan(model.architecture, "tl5", rank=2))
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.zero_()
    with pytest.raises(UserError, match="train nothing"):
        train(model, next_token, token_blocks(), settings, tmp_path / "b", identity="x")


def test_only_adapters_are_optimised_saved_and_resumed(tmp_path):
    settings = Training(tokens=32 * 4 * 20, batch=4, learning_rate=1e-2, weight_decay=0.0)
    models = []
    for _ in range(2):
        model = shaken(tiny("M-*-", vocab=61))
        attach(model, make_plan(model.architecture, "tl6", rank=2))
        models.append(model)
    assert sum(
        p.numel() for g in make_optimizer(models[0], settings).param_groups for p in g["params"]
    ) == (models[0].adapters.plan.trainable)
    train(models[0], next_token, token_blocks(), settings, tmp_path / "run", identity="x")
    train(
        models[1], next_token, token_blocks(), settings, tmp_path / "run", identity="x"
    )  # already at its end: only loads
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            models[0].adapters.parameters(), models[1].adapters.parameters(), strict=True
        )
    )
    size = sum(f.stat().st_size for f in (tmp_path / "run/state").rglob("*.safetensors"))
    assert size < 2 * 200_000


def test_fp8_layers_keep_their_adapters():
    model = shaken(tiny("M-*-", vocab=61, hidden=32))
    attach(model, make_plan(model.architecture, "tl6", rank=2, target="mlp"))
    set_precision(model, "fp8-emulated", 1)
    model(torch.zeros(1, 8, dtype=torch.int64)).square().mean().backward()
    assert model.adapters.groups["mlp-up_proj-32x64"].B.grad[:, :].abs().max() > 0
