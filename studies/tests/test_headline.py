"""studies/headline_speed.py, headline_account.py and their tables run to their ends on a tiny
config on a CPU.
"""

import json
import sys
from pathlib import Path

import cloze
import headline_account
import headline_speed
import headline_speed_table
import headline_table
import headline_tasks
import numpy as np
import pytest
import torch
from conftest import tiny
from family_models import unclamped

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer
from minipuzzle.families import nemotron_h
from minipuzzle.generation import generate
from minipuzzle.model import load_model

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(nemotron_h.config(tiny(vocab=200), {})))
    return folder


def call(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def test_sections_are_run_once_and_shown(config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "speed.json"
    usual = ("--configs", config, config, "--prompts", 48, "--device", "cpu", "--out", out)
    monkeypatch.setattr("minipuzzle.runs.bench.available_bytes", lambda: 3_000_000)
    monkeypatch.setattr("minipuzzle.timing.ROUNDS", {"cpu": 2})
    call(headline_speed, monkeypatch, "small", *usual, "--seconds", 0)
    call(headline_speed, monkeypatch, "memory", *usual)
    call(headline_account, monkeypatch, *usual)
    found = json.loads(out.read_text())
    assert set(found) == {"small", "memory", "account"}
    assert [len(result["rows"]) for result in found["small"].values()] == [2, 2]
    decode = found["account"]["decode"]
    assert decode["ms"] == pytest.approx(sum(part["ms"] for part in decode["parts"]))
    assert decode["largest_gap"] in [part["part"] for part in decode["parts"]]
    mamba = next(part for part in decode["parts"] if part["part"] == "mamba")
    assert mamba["count"] == 3
    assert len(decode["kernels"]) == headline_speed.SHOWN_KERNELS
    monkeypatch.setattr("headline_speed.run_bench", lambda *_, **__: pytest.fail("measured again"))
    call(headline_speed, monkeypatch, "small", *usual)
    capsys.readouterr()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- speed -->\nold\n<!-- speed -->\nafter\n")
    call(
        headline_table,
        monkeypatch,
        "--speed",
        out,
        "--experiment",
        tmp_path / "none",
        "--write",
        page,
    )
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert text.count("| model | batch |") == 2
    assert "largest gap" in text.lower()


def test_decoding_against_transformers(config, tmp_path, monkeypatch):
    out = tmp_path / "speed.json"
    call(
        headline_speed,
        monkeypatch,
        "transformers",
        "--configs",
        config,
        "--prompts",
        20,
        "--device",
        "cpu",
        "--out",
        out,
    )
    rows = json.loads(out.read_text())["transformers"]
    assert set(rows) == {f"{who}, batch {b}, 20" for who in ("ours", "theirs") for b in (1, 8)}
    assert all(row["step_ms"] > 0 for row in rows.values())
    assert "| batch 1, 20 |" in "\n".join(headline_speed_table.tables({"transformers": rows}))


def test_tasks_are_scored_as_with_transformers():
    """Each choice alone, in transformers, without padding."""
    from transformers import AutoModelForCausalLM

    words = Tokenizer.load(embedded.teacher_path())
    text = "The Congress of the United States will meet in the month of"
    choices = [" December", " banana", " the Senate and of the House", " 17"]
    asked = [
        (text, choices),
        (text[:31], [choices[2], *choices[:2], " States"]),
        (text[:20], choices[1:]),
    ]
    items = [cloze.item(words, *parts) for parts in asked]
    theirs = unclamped(
        AutoModelForCausalLM.from_pretrained(embedded.teacher_path(), dtype=torch.float32).eval()
    )
    want = []
    for item in items:
        sums = []
        for choice, size in zip(item.choices, item.sizes, strict=True):
            log_p = theirs(torch.tensor([item.context + choice])).logits[0].log_softmax(-1)
            places = range(len(item.context) - 1, len(item.context) + len(choice) - 1)
            sums.append(sum(log_p[p, t].item() for p, t in zip(places, choice, strict=True)) / size)
        want.append(max(sums) == sums[0])
    ours = load_model(Checkpoint.open(embedded.teacher_path())).eval()
    assert headline_tasks.correct(ours, items).tolist() == want
    assert sorted(set(want)) == [False, True]
    said = generate(ours, [items[0].context], 3)[0]
    greedy = [
        headline_tasks.Item(context=items[0].context, choices=[tokens], sizes=[1])
        for tokens in (said, [said[0], 5])
    ]
    assert headline_tasks.correct(ours, greedy).tolist() == [True, False]


def test_tasks_from_documents():
    words = Tokenizer.load(embedded.teacher_path())
    passage = (
        "A river is a stream of fresh water that flows on land or inside caves to another body of"
        " water. " * 2
    )
    found = list(headline_tasks.last_words([passage.strip(), "short text."], words, 5))
    assert [words.decode(i.choices[0]) for i in found] == [" water"]
    assert words.decode(found[0].context).endswith("another body of")
    copied = next(headline_tasks.copies(words, 1, np.random.default_rng(0)))
    assert copied.context[1:9] == copied.context[25:]
    assert copied.choices[0] == copied.context[9:11]
    lines = [
        [f"the {word} line of a text that is long enough, {i}" for i in range(6)]
        for word in ("first", "second")
    ]
    item = next(headline_tasks.continuations(lines, "\n", words, 1, np.random.default_rng(0)))
    before, right = words.decode(item.context), words.decode(item.choices[0])
    assert int(right[-1]) == int(before[-1]) + 1
    assert right.split()[1] == before.split()[1]
    recalled = next(
        headline_tasks.recalls(
            [f"word{c}" for c in "abcdefghijklmnopqrst"], words, 1, np.random.default_rng(0)
        )
    )
    asked = words.decode(recalled.context).rsplit("\n", 1)[1]
    assert asked + words.decode(recalled.choices[0]) + "\n" in words.decode(recalled.context)


def test_what_is_retained():
    rng = np.random.default_rng(0)
    first = {
        "copy": rng.random(1000) < 0.5,
        "next line": rng.random(1000) < 0.26,
        "recall": rng.random(1000) < 0.8,
    }
    worse = {task: right & (rng.random(1000) < 0.9) for task, right in first.items()}
    right = {"teacher": first, "student": worse}
    found = headline_tasks.verdict(right, "student")
    assert found["counted"] == ["copy", "recall"]  # the other is chance
    assert found["retained"] == pytest.approx(
        (worse["copy"].mean() + worse["recall"].mean()) / 1.3, abs=0.03
    )
    assert 0.02 < found["retained_95"][1] - found["retained_95"][0] < 0.06
    assert found["retained_95"][0] < found["retained"] < found["retained_95"][1]
    assert headline_tasks.verdict(right, "teacher")["retained_95"] == [1.0, 1.0]


def test_who_guesses_retains_nothing():
    """A quarter right among four is chance: 0.25 of 0.75 is no third of the accuracy, but none."""
    first = {"next line": np.arange(1000) % 4 != 0, "copy": np.arange(1000) % 2 == 0}
    guesses = {"next line": np.arange(1000) % 4 == 0, "copy": np.zeros(1000, dtype=bool)}
    found = headline_tasks.verdict({"teacher": first, "student": guesses}, "student")
    assert found["retained"] == pytest.approx(0.0)
    assert found["retained_95"][0] < 0 < found["retained_95"][1]
    half = {"next line": np.arange(1000) % 2 == 0, "copy": np.arange(1000) % 4 == 0}
    found = headline_tasks.verdict({"teacher": first, "student": half}, "student")
    assert found["retained"] == pytest.approx((0.25 + 0.25) / (0.5 + 0.5))
