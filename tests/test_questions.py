"""The shipped questions: what they are made of, which a model answers, and their intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from chats import published, put_chat
from conftest import save, shaken, tiny
from helpers import run
from scipy import stats

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.data import Tokenizer
from minipuzzle.model import init_model
from minipuzzle.questions import CHANCE, CHOICES, Item, Question, answers, item, questions
from minipuzzle.questions.intervals import difference, mean, share
from minipuzzle.questions.needles import lengths

KINDS = ["language", "knowledge", "code", "long context", "chat"]


@pytest.fixture(scope="module")
def words():
    return Tokenizer.load(embedded.teacher_path())


def test_each_half_has_every_kind_and_no_question_of_the_other(words):
    halves = [questions(words, half, longest=512) for half in ("search", "eval")]
    asked = []
    for half in halves:
        assert list(half) == KINDS
        every = [q for kind in half.values() for q in kind]
        assert all(len(set(q.choices)) == CHOICES for q in every)
        asked.append({(q.context, q.choices[0]) for q in every})
        assert min(map(len, half.values())) >= 48
    assert not asked[0] & asked[1]
    few = questions(words, "eval", longest=512, limit=8)
    assert [len(found) for found in few.values()] == [8] * 5
    tasks = {q.task for q in few["chat"]}
    assert tasks == {"recall", "speaker", "reply", "format"}


def test_long_texts_are_as_long_as_they_say(words):
    assert lengths(255) == []
    assert lengths(256) == [256]
    assert lengths(2047) == [256, 512, 1024]
    found = questions(words, "eval", longest=1024)["long context"]
    for question in found:
        length = int(question.task.rpartition(" ")[2].replace(",", ""))
        made = item(question, words)
        assert 0.7 * length < len(made.context) + max(map(len, made.choices)) <= length
        said = [f" is{choice}." in question.context for choice in question.choices]
        assert said == ([True] * 4 if question.task.startswith("needles") else [True] + [False] * 3)
    assert len(questions(words, "eval", longest=100)) == 4


def test_a_chat_template_renders_the_conversation(words, tmp_path):
    transformers = pytest.importorskip("transformers")
    put_chat(tmp_path, published("chatml"))
    found = questions(Tokenizer.load(tmp_path), "eval", longest=256)["chat"]
    plain = questions(words, "eval", longest=256)["chat"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for ours, bare in zip(found, plain, strict=True):
        assert ours.begun
        assert [f" {choice}" for choice in ours.choices] == list(bare.choices)
        turns = [line.partition(": ")[2] for line in bare.context.split("\n")[:-1]]
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]
        wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert ours.context == wanted


def test_choices_follow_the_context_as_one_text(words):
    question = Question(task="last word", context="The law of the", choices=(" land", " sea"))
    made = item(question, words)
    for choice, text in zip(made.choices, question.choices, strict=True):
        whole = words.encode(question.context + text, special_tokens=False)
        assert made.context + choice == whole
    assert made.sizes == [5, 4]
    assert made.start is None
    assert item(replace(question, task="fact"), words).start == [words.eos_id]


@pytest.mark.parametrize("masked", [False, True])
def test_one_reading_of_the_context_says_what_whole_rows_say(masked):
    """Against log-softmax over the whole row, also under a search's masks."""
    model = shaken(tiny("M-*M", vocab=61))
    asked = Item(
        context=list(range(3, 40)), choices=[[5], [6, 7, 8], [9, 9], [5, 6]], sizes=[1] * 4
    )
    kept = Selection(blocks=({}, None, {}, {}), hidden=tuple(range(0, 32, 2)))
    if not masked:
        kept = Selection.everything(model.architecture)
    with model.masked(kept), torch.no_grad():
        found = answers.log_probabilities(model, asked)
        for choice, ours in zip(asked.choices, found, strict=True):
            row = asked.context + choice
            log_p = model(torch.tensor([row]))[0].log_softmax(-1)
            places = range(len(asked.context) - 1, len(row) - 1)
            want = sum(float(log_p[i, row[i + 1]]) for i in places)
            assert ours == pytest.approx(want, abs=2e-4)
        assert answers._in_rows(model, asked) == pytest.approx(found, abs=2e-4)


def test_choices_are_compared_a_byte_or_with_themselves_alone(monkeypatch):
    said = {7: [-4.0, -3.0], 0: [-9.0, -3.5]}
    monkeypatch.setattr(
        answers, "log_probabilities", lambda _, item: np.array(said[item.context[0]])
    )
    asked = Item(context=[7], choices=[[1], [2]], sizes=[8, 2])
    assert answers.compared(None, asked).tolist() == [-0.5, -1.5]
    assert answers.compared(None, replace(asked, sizes=[2, 2])).tolist() == [-2.0, -1.5]
    assert answers.compared(None, replace(asked, start=[0])).tolist() == [5.0, 0.5]


def test_intervals_are_scipys_and_cover():
    rng = np.random.default_rng(0)
    for n, k in ((20, 0), (20, 13), (200, 200), (170, 47)):
        wanted = stats.binomtest(k, n).proportion_ci(method="wilson")
        found = share(np.arange(n) < k)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert share(np.arange(4) < 1).above(CHANCE).value == 0
    # of pairs: scipy's bootstrap of many, and how often the truth lies within of few
    hard = rng.random(1000)
    one, other = hard + rng.normal(0, 0.3, 1000) < 0.6, hard + rng.normal(0, 0.3, 1000) < 0.5
    boot = stats.bootstrap(
        (one, other), lambda a, b, axis=-1: a.mean(axis) - b.mean(axis), paired=True, rng=rng,
        n_resamples=2000, method="percentile",
    ).confidence_interval  # fmt: skip
    found = difference(one, other)
    assert (found.low, found.high) == pytest.approx((boot.low, boot.high), abs=4e-3)
    within = joined = 0
    for _ in range(1000):
        hard = rng.random((3, 60))
        first, second = (hard + rng.normal(0, 0.2, (3, 60)) < limit for limit in (0.7, 0.6))
        parts = [difference(a, b) for a, b in zip(first, second, strict=True)]
        within += parts[0].low <= TRUE <= parts[0].high
        whole = mean(parts)
        joined += whole.low <= TRUE <= whole.high
    assert 930 <= within <= 985
    assert 930 <= joined <= 985
    same = difference(one, one)
    assert same.value == 0 and same.low < 0 < same.high  # noqa: PT018


def _true_difference():
    hard, noise = np.random.default_rng(1), np.random.default_rng(2)
    value = hard.random(2_000_000) + noise.normal(0, 0.2, 2_000_000)
    return float(((value >= 0.6) & (value < 0.7)).mean())


TRUE = _true_difference()


def test_eval_asks_teacher_and_student(tmp_path, capsys):
    parent = save(shaken(tiny("M-*")), tmp_path / "parent")
    student = save(init_model(tiny("M-*"), seed=5), tmp_path / "student")
    where = tmp_path / "run"
    asked = ("eval", student, "--run", where, "--parent", parent, "--tasks", "embedded")
    asked = (*asked, "--device", "cpu", "--limit", 5, "--longest", 256)
    run(*asked)
    text = capsys.readouterr().out
    assert all(kind in text for kind in [*KINDS, "mean of the kinds", "change from the teacher"])
    run(*asked, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((where / "questions.json").read_text())
    first, second = found["rows"]
    assert (first["name"], second["name"]) == ("teacher", "student")
    assert list(first["kinds"]) == KINDS
    assert first["mean"]["count"] == 25
    for kind, numbers in second["kinds"].items():
        gap = (numbers["right"] - first["kinds"][kind]["right"]) / (1 - CHANCE)
        assert numbers["change"][0] == pytest.approx(gap)
        assert numbers["above"][0] == pytest.approx((numbers["right"] - CHANCE) / (1 - CHANCE))
    assert "change" not in first["mean"]
    run("report", "--run", where)
    page = (where / "report.html").read_text()
    assert "shipped questions" in page
    assert "needles at 256" in page
    run(*asked, "--include", tmp_path, code=2)
    assert "without other files" in capsys.readouterr().err
