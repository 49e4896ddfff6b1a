"""Steps on the student's own completions."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chats import published, put_chat
from conftest import shaken, tiny
from helpers import FAST, Watched, heard, run
from on_policy_case import completions, models
from searched_runs import Died, dying_at_step
from test_distill import text_blocks

from minipuzzle import embedded
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.generation import Sampling, generate
from minipuzzle.ranks import alone
from minipuzzle.records import load_log
from minipuzzle.runs import checks
from minipuzzle.runs.prompts import load_prompts
from minipuzzle.settings import DistillSettings, Training
from minipuzzle.settings.counts import parse_share
from minipuzzle.training import distillation, loop, train
from minipuzzle.training.log import LOG
from minipuzzle.training.on_policy import OnPolicy

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_losses.json").read_text())
PROMPTS = [np.arange(3, 3 + n) for n in (2, 5, 3, 7, 4)]


def on_policy(teacher=None, **changes) -> OnPolicy:
    teacher = teacher or models()[1]
    made = OnPolicy(
        share=0.5,
        prompts=PROMPTS,
        length=6,
        ends={7, 8, 9},
        objective=distillation(teacher, "reverse-kl", spans=True),
        identity="x",
    )
    return replace(made, **changes)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_loss_and_its_gradients_are_trls(name):
    """studies/trl_losses.py wrote the numbers, with TRL 1.16's GKDTrainer."""
    student, teacher = models()
    student.requires_grad_()
    tokens, prompt, ends = completions()
    segments = torch.zeros_like(tokens)
    for row, end in enumerate(ends):
        segments[row, prompt:end], segments[row, end:] = 1, 2
    found = distillation(teacher.requires_grad_(False), name, spans=True)(student, tokens, segments)
    (found.total / found.tokens).backward()
    norms = [w.grad.norm().item() for w in (student.head.weight, student.embeddings.weight)]
    assert found.total.item() / found.tokens == pytest.approx(GOLDEN[name]["loss"], rel=2e-5)
    assert norms == pytest.approx(GOLDEN[name]["gradient_norms"], rel=2e-5)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.29, 0.5, 2 / 3, 1.0])
def test_the_share_is_exact_after_any_number_of_steps(share):
    made, count = on_policy(share=share), 0
    for step in range(300):
        count += made.turn(step)
        assert abs(count - share * (step + 1)) < 1
    assert count == math.floor(300 * share + 1e-9)


def test_a_batch_is_prompts_and_what_the_student_adds_to_them():
    model, made = shaken(tiny("M-*", vocab=61)), on_policy()

    def batch(step, size, at_once=0, seed=3, by=model):
        settings = Training(batch=size, micro_batch=at_once, seed=seed)
        return made.batch(by, step, settings, alone(torch.device("cpu")))

    whole, lengths = batch(1, 4)
    again, _ = batch(1, 4, 3)  # in micro-batches: the same completions
    assert [len(part) for part, _ in again] == [3, 1]
    (tokens, segments), seen = whole[0], set()
    rows = [row for part in again for row in zip(*part, strict=True)]
    for row, parts, other in zip(tokens, segments, rows, strict=True):
        prompt, answer = row[parts == 0].tolist(), row[parts == 1].tolist()
        assert prompt in [p.tolist() for p in PROMPTS]
        seen.add(tuple(prompt))
        assert len(answer) == 6 or (len(answer) < 6 and answer[-1] in made.ends)
        assert not made.ends & set(answer[:-1])
        assert prompt == other[0][other[1] == 0].tolist()
        assert answer == other[0][other[1] == 1].tolist()
    assert len(seen) == 4  # all prompts of an epoch differ
    assert lengths == (segments == 1).sum(1).tolist()
    assert any((parts == 2).any() for parts in segments)
    # its steps go through all prompts before one comes again
    steps = [batch(step, 1)[0][0] for step in (1, 3, 5, 7, 9)]
    assert {tuple(row[0][parts[0] == 0].tolist()) for row, parts in steps} == {
        tuple(p.tolist()) for p in PROMPTS
    }
    # another seed, step or model writes another text
    for otherwise in (
        batch(1, 4, seed=4),
        batch(3, 4),
        batch(1, 4, by=shaken(tiny("M-*", vocab=61), 1)),
    ):
        found = otherwise[0][0][0]
        assert found.shape != tokens.shape or not torch.equal(found, tokens)


def test_completions_are_drawn_at_temperature_1_from_the_model_as_it_is_used():
    """Frequencies of a first token against the model's own probabilities."""
    model, prompt = shaken(tiny("M-*", vocab=11)), np.array([1, 2, 3])
    model.head.weight.data.mul_(4)  # far from uniform: another temperature is seen
    made = on_policy(prompts=[prompt], length=1, share=1.0)
    count = 8000
    settings, one = Training(batch=count, seed=0), alone(torch.device("cpu"))
    ((tokens, _),), _ = made.batch(model.train(), 0, settings, one)
    assert model.training
    with torch.no_grad():
        wanted = model(torch.tensor(prompt[None]))[0, -1].softmax(-1)
    found = torch.bincount(tokens[:, 3], minlength=11) / count
    assert (found - wanted).abs().max() < 3 * (0.25 / count) ** 0.5
    assert generate(model.eval(), [[1, 2, 3]], 1) == [[int(wanted.argmax())]]
    assert Sampling().temperature == 0  # what the test would see if it were forgotten


def test_it_learns_says_so_and_goes_on_bit_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Pace, "due", lambda *_: True)
    teacher = shaken(tiny("M-*", vocab=61), 0).requires_grad_(False)
    settings = Training(tokens=32 * 4 * 40, learning_rate=3e-3, batch=4)
    said = []

    def trained(folder, **changes):
        student = shaken(tiny("M-*", vocab=61), 1)
        watch = Watched(lambda _, **numbers: said.append(numbers))
        train(
            student,
            distillation(teacher),
            text_blocks(),
            settings,
            tmp_path / folder,
            identity="x",
            progress=watch,
            on_policy=on_policy(teacher, **changes),
        )
        return student.state_dict(), load_log(tmp_path / folder / LOG)

    whole, rows = trained("whole")
    assert [row["on_policy"] for row in rows] == [0.5] * 4
    assert rows[-1]["completion_loss"] < 0.7 * rows[0]["completion_loss"]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(1 < row["completion_tokens"] <= 6 for row in rows)
    assert {"loss", "on_policy", "completion_loss", "completion_tokens"} == set(said[-1])
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", dying_at_step(26))
        with pytest.raises(Died):
            trained("killed")
    killed, rows_killed = trained("killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    for a, b in zip(rows, rows_killed, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    with pytest.raises(UserError, match="another run"):
        trained("killed", identity="other prompts")
    _, rows = trained("all", share=1.0)
    assert [row["loss"] for row in rows] == [row["completion_loss"] for row in rows]


def test_prompts_of_files(tmp_path):
    tokenizer = Tokenizer.load(embedded.teacher_path())
    lines, text = tmp_path / "p.jsonl", tmp_path / "p.txt"
    lines.write_text('{"prompt": "What is a vote?"}\n{"prompt": "The committee met on"}\n')
    text.write_text("What is a vote?\n\n\f\nThe committee met on")
    found, same = (load_prompts(path, tokenizer, 100) for path in (lines, text))
    assert [tokenizer.decode(t) for t in found.tokens] == [
        "What is a vote?",
        "The committee met on",
    ]
    assert found.fingerprint == same.fingerprint
    with heard() as said:
        short = load_prompts(lines, tokenizer, 3)
    assert [t.tolist() for t in short.tokens] == [t[-3:].tolist() for t in found.tokens]
    assert "of 2 only the last 3 tokens" in said[0]
    assert short.fingerprint != found.fingerprint
    wrong = {
        '{"prompt": "a"}\n{"text": "b"}': 'no text in "prompt"',
        '{"prompt": "a"}\n{"prompt": ""}': "an empty prompt",
        '{"messages": [{"role": "assistant", "content": "b"}]}': "only the assistant's turns",
    }
    for rows, message in wrong.items():
        lines.write_text(rows)
        with pytest.raises(UserError) as caught:
            load_prompts(lines, tokenizer, 3)
        assert message in f"{caught.value} {caught.value.got}"


def test_prompts_of_conversations_are_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "chat"
    folder.mkdir()
    put_chat(folder, published("chatml"))
    turns = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "Yes."}]
    rows = [{"messages": turns}, {"prompt": turns[:1]}, {"messages": [*turns, *turns[:1]]}]
    file = tmp_path / "chat.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = load_prompts(file, Tokenizer.load(folder), 1000).tokens
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for tokens, asked in zip(found, (turns[:1], turns[:1], [*turns, *turns[:1]]), strict=True):
        wanted = theirs.apply_chat_template(
            asked, add_generation_prompt=True, return_dict=True, tokenize=True
        )
        assert tokens.tolist() == wanted["input_ids"]


def test_what_does_not_go_together_is_refused():
    assert [parse_share(t) for t in ("50%", "0.5", "1", "0", "100 %")] == [0.5, 0.5, 1, 0, 1]
    for wrong in ("half", "50%%", "nan", ""):
        with pytest.raises(UserError, match="not a share"):
            parse_share(wrong)
    for wrong in ("101%", "-1%"):
        with pytest.raises(UserError, match=r"distill\.on_policy is out of bounds"):
            DistillSettings(on_policy=wrong, prompts="p")
    both = {"on_policy": "50%", "prompts": "p"}
    with pytest.raises(UserError, match="do not cover"):
        DistillSettings(teacher_logits="t", **both)
    with pytest.raises(UserError, match="no divergence 'cosine'"):
        DistillSettings(on_policy_loss="cosine", **both)
    for precision in ("fp8", "fp8-emulated"):
        settings = DistillSettings(training=Training(precision=precision), **both)
        with pytest.raises(UserError, match="writes in BF16"):
            checks._open_prompts(None, settings)
    moved = DistillSettings(on_policy="50%", prompts="q").fixed()
    assert moved == DistillSettings(**both).fixed() != DistillSettings().fixed()


def test_the_command(searched, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Mr President, the"}\n' * 3)
    folder = shutil.copytree(searched, tmp_path / "run")
    words = ("distill", "--run", folder, *FAST["distill"], "--prompts", prompts)
    words = (*words, "--tokens", 1024, "--short-tokens", 256)
    run(*words, "--on-policy", "50%", "--completion", 64, code=2)
    assert "no room for its prompt" in capsys.readouterr().err
    run(*words, code=2)
    assert "need prompts and a share" in capsys.readouterr().err
    run(*words, "--on-policy", "50%", "--completion", 8)
    rows = load_log(folder / "distill" / "long" / LOG)
    assert rows[-1]["on_policy"] == 0.5
    assert 1 <= rows[-1]["completion_tokens"] <= 8
