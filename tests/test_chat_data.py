"""Files of conversations as people have them, and what each command computes on them. Oracles:
transformers' tokens, pyarrow's files, sums in float64 over each conversation by itself.
"""

import json
import logging

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from chats import conversations, published, put_chat, tagged
from conftest import save, shaken, tiny
from helpers import FAST, run
from streamed_scores import without
from transformers import AutoTokenizer

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.data.conversations import Conversations
from minipuzzle.errors import UserError
from minipuzzle.importance import score
from minipuzzle.metrics import answers, measure
from minipuzzle.ranks import alone
from minipuzzle.settings import ScoreSettings
from minipuzzle.training.keep import Keep
from minipuzzle.training.objectives import distillation
from minipuzzle.training.offline import TeacherCache, stored

LENGTH = 128
USER, SAID = {"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}


@pytest.fixture
def words(tmp_path):
    return Tokenizer.load(put_chat(tmp_path / "words", published("chatml")))


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(words, rows, tmp_path, loss_on="assistant"):
    reader = Conversations(tokenizer=words, loss_on=loss_on)
    return list(reader.read(write(tmp_path / "a.jsonl", rows)))


def said(words, example):
    return words.decode(example.tokens[example.wanted])


def test_what_carries_a_loss(words, tmp_path):
    turns = [USER, SAID, USER, {"role": "assistant", "content": "five"}]
    forms = {
        "messages": ({"messages": turns}, "four<|im_end|>five<|im_end|>"),
        "completion": ({"prompt": turns[:3], "completion": turns[3:]}, "five<|im_end|>"),
        "answer": ({"prompt": turns[:1], "answer": turns[1:2]}, "four<|im_end|>"),
        "strings": ({"prompt": "two and two:", "completion": " four"}, " four</s>"),
    }
    for row, wanted in forms.values():
        (example,) = read(words, [row], tmp_path)
        assert said(words, example) == wanted
        assert example.text_bytes in (len(wanted), len(wanted) - len("</s>"))
        (whole,) = read(words, [row], tmp_path, "all")
        assert whole.wanted.tolist() == [False] + [True] * (len(whole.tokens) - 1)
        assert whole.tokens.tolist() == example.tokens.tolist()
    put_chat(tmp_path / "words", tagged("chatml"))
    (example,) = read(words, [forms["completion"][0]], tmp_path)
    assert said(words, example) == "five<|im_end|>"  # tags of the prompt do not count


def test_parquet_has_no_nulls_that_json_has_not(words, tmp_path):
    rows = [
        {"messages": messages, "tools": json.dumps(tools) if tools else None}
        for messages, tools in conversations(12, "chatml")
    ]
    expected = read(words, rows, tmp_path)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    reader = Conversations(tokenizer=words, loss_on="assistant")
    found = list(reader.read(tmp_path / "a.parquet"))
    assert len(found) == len(expected) == 12
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        assert ours.wanted.tolist() == theirs.wanted.tolist()


def test_templates_by_name_are_chosen_as_transformers_does(words, tmp_path):
    folder = tmp_path / "words"
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    both = {"default": "{{ messages[0].content }}", "tool_use": "{{ tools[0].name }}!"}
    listed = [{"name": name, "template": text} for name, text in both.items()]
    for given in (both, listed):
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(config | {"chat_template": given}))
        theirs = AutoTokenizer.from_pretrained(folder)
        for tools in (None, [{"name": "look"}]):
            (example,) = read(words, [{"messages": [USER], "tools": tools}], tmp_path, "all")
            expected = theirs.apply_chat_template([USER], tools=tools)["input_ids"]
            assert example.tokens.tolist() == expected


@pytest.mark.parametrize(
    ("template", "row", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", {}, "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", {}, "unsafe"),
        ("{{ messages.append(1) }}", {}, "unsafe"),
        ("{% for %}", {}, "line 1"),
        ("{{ namespace(_a=1) }}", {}, "_a"),
        ("{{ 1 / 0 }}", {}, "division by zero"),
        ("", {"messages": []}, "[]"),
        ("", {"messages": [{"content": "a"}]}, "without a role"),
        ("", {"messages": "hello"}, "hello"),
        ("", {"tools": "{"}, "no JSON"),
        ("{{ messages[0].content }}", {"messages": [USER | {"content": "\ud800"}]}, "surrogate"),
    ],
)
def test_what_a_template_refuses_is_told_with_its_row(words, tmp_path, template, row, says):
    put_chat(tmp_path / "words", template)
    with pytest.raises(UserError) as caught:
        read(words, [{"messages": [USER, SAID]} | row], tmp_path)
    assert says in caught.value.got
    assert "Line 1 of" in caught.value.what


def test_a_checkpoint_without_a_template_says_so(words, tmp_path):
    (tmp_path / "words/chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        read(words, [{"messages": [USER, SAID]}], tmp_path)


def test_what_is_left_out_is_said(words, tmp_path, caplog):
    long = [USER, SAID | {"content": "four " * 99}]
    rows = [{"messages": m} for m in ([USER, SAID], long, [USER])]
    with caplog.at_level(logging.INFO, "minipuzzle"):
        blocks = load_blocks(write(tmp_path / "a.jsonl", rows), words, block_length=LENGTH)
    assert "1 longer than a block of 128 tokens" in caplog.text
    assert "1 without a token that carries a loss" in caplog.text
    assert (len(blocks), blocks.counted) == (1, len(words.encode("four", special_tokens=False)) + 1)
    for rows, what in (
        ([{"messages": long}], "longer than a block"),
        ([{"messages": [USER]}], "carries a loss"),
    ):
        with pytest.raises(UserError, match=what):
            load_blocks(write(tmp_path / "b.jsonl", rows), words, block_length=LENGTH)


@pytest.fixture
def mixed(words, tmp_path):
    """A folder of prose, conversations, and prompts with answers."""
    rows = [{"messages": m} for m, tools in conversations(16, "chatml") if tools is None]
    write(tmp_path / "data/chat.jsonl", rows)
    write(tmp_path / "data/pairs.jsonl", [{"prompt": "a b", "answer": " c d"}] * 60)
    (tmp_path / "data/prose.txt").write_text("The quick brown fox jumps over it. " * 60)
    return tmp_path / "data"


def test_a_folder_of_text_and_conversations(words, mixed, tmp_path):
    def load(**more):
        return load_blocks(mixed, words, block_length=LENGTH, cache=tmp_path / "cache", **more)

    made, again, every = load(), load(), load(loss_on="all")
    assert np.array_equal(made.documents, again.documents)
    assert made.spans
    assert again.spans
    assert made.fingerprint != every.fingerprint
    assert made.counted < every.counted < made.tokens.size
    prose = load_blocks(mixed / "prose.txt", words, block_length=LENGTH)
    assert np.array_equal(made.tokens[: len(prose)], prose.tokens)
    assert (made.documents[: len(prose)] == 2 * prose.documents + 1).all()
    domains = load(by_file=True)
    assert [d.name for d in domains.domains] == ["chat", "pairs", "prose"]
    cut = load(whole=False)  # nothing fills a block
    ends = lambda blocks: int((blocks.tokens == words.eos_id).sum())  # noqa: E731
    assert ends(cut) < ends(made)
    assert (cut.documents[:, 0] < 2).all()


def test_numbers_are_those_of_each_conversation_by_itself(words, mixed, tmp_path):
    blocks = load_blocks(mixed, words, block_length=LENGTH)
    size = words.vocab_size
    model, teacher = (shaken(tiny("M-*", hidden=16, vocab=size), seed) for seed in (0, 1))
    sums, count = torch.zeros(4, dtype=torch.float64), 0
    for tokens, documents in zip(blocks.tokens.astype("int64"), blocks.documents, strict=True):
        for k in range(int(documents.max()) // 2 + 1):
            place = documents // 2 == k
            one = torch.from_numpy(tokens[place])[None]
            wanted = torch.from_numpy(documents[place][1:] % 2 == 1)
            with torch.no_grad():
                mine, theirs = (
                    m(one)[0, :-1][wanted].double().log_softmax(-1) for m in (model, teacher)
                )
            right = one[0, 1:][wanted]
            sums[0] -= mine.gather(1, right[:, None]).sum()
            sums[1] += (mine.argmax(-1) == right).sum()
            sums[2] += (mine.argmax(-1) == theirs.argmax(-1)).sum()
            sums[3] += (theirs.exp() * (theirs - mine)).sum()
            count += len(right)
    for taught in (teacher, answers(teacher, blocks, 3)):
        found = measure(model, blocks, batch=2, teacher=taught)
        assert found.tokens == count
        got = (found.loss, found.next_token_accuracy, found.agreement, found.kl)
        assert got == pytest.approx((sums / count).tolist(), rel=1e-4)
    tokens, documents = blocks.stream(range(len(blocks)), 0)
    given = torch.from_numpy(tokens), torch.from_numpy(documents)
    loss = distillation(teacher, spans=blocks.spans)(model, *given)
    assert (loss.tokens, loss.total.item()) == (count, pytest.approx(sums[3].item(), rel=1e-4))
    both = distillation(teacher, "forward-kl+cross-entropy", spans=True)(model, *given)
    assert both.total.item() == pytest.approx((sums[0] + sums[3]).item(), rel=1e-4)
    cache = TeacherCache(
        tmp_path / "logits",
        blocks,
        Keep.parse(f"top-{size}"),
        positions=range(len(blocks)),
        teacher="t",
        vocabulary=size,
        seed=0,
        isolate=False,
    )
    cache.fill(teacher, cache.missing(), alone(torch.device("cpu")), 4)
    found = stored(cache)(model, *given)
    assert (found.tokens, found.total.item()) == (count, pytest.approx(loss.total.item(), rel=2e-3))


@pytest.mark.parametrize("held", [16.0, 0.0])
def test_damage_is_that_of_the_positions_that_count(words, mixed, tmp_path, held):
    """By masks over the whole model: KL where a token with a loss is predicted, and there alone, of
    all samples at once and of one after the other.
    """
    blocks = load_blocks(mixed, words, block_length=LENGTH, whole=False)
    model = shaken(tiny("M-*", vocab=words.vocab_size))
    scores = score(
        Checkpoint.open(save(model, tmp_path / "parent", tokenizer=False)),
        blocks,
        ScoreSettings(metric="kl", samples=6, block_samples=6, curves=False, activations=held),
        device=torch.device("cpu"),
        partial=tmp_path / "partial",
    )
    chosen = blocks.take(6)
    tokens, at = torch.from_numpy(chosen.tokens.astype("int64")), chosen.predicting
    with torch.no_grad():
        whole = model(tokens)[at].double().log_softmax(-1)
        for block, found in enumerate(scores.blocks):
            with model.masked(Selection(blocks=tuple(without(model, block)))):
                other = model(tokens)[at].double().log_softmax(-1)
            kl = (whole.exp() * (whole - other)).sum(-1).mean()
            assert found == pytest.approx(kl.item(), rel=1e-3)


def test_every_command_takes_conversations(tmp_path, monkeypatch, capsys):
    """A template of the demo's words in the checkpoint; losses are of the assistant's turns."""
    monkeypatch.chdir(tmp_path)
    save(shaken(tiny()), tmp_path / "parent")
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    (tmp_path / "parent/chat_template.jinja").write_text(template)
    rows = [
        {"messages": [USER | {"content": f"{i} and {i}?"}, SAID | {"content": f"It is {2 * i}."}]}
        for i in range(160)
    ]
    chat = write(tmp_path / "chat.jsonl", rows)
    texts = {n: [chat if x in FAST["distill"][1::2][:2] else x for x in FAST[n]] for n in FAST}
    run("score", "parent", "--run", "run", *texts["score"])
    run("search", "--run", "run", *texts["search"], "--top", 1)
    few = ("--tokens", 512, "--length", 64, "--batch", 4, "--device", "cpu")
    run(
        "distill", "--run", "run", "--data", chat, "--validation", chat, "--short-tokens", 256, *few
    )
    run("eval", "--run", "run", "--data", chat, "--length", 64, "--device", "cpu")
    run("adapt", "parent", "--run", "adapted", "--data", chat, "--rank", 2, *few)
    assert "160 conversations" in capsys.readouterr().err
    assert (tmp_path / "parent/chat_template.jinja").read_text() == template
    assert (tmp_path / "run/student/chat_template.jinja").read_text() == template
    row = json.loads((tmp_path / "run/eval.json").read_text())["rows"][0]
    run(
        "eval",
        "--run",
        "run",
        "--data",
        chat,
        "--length",
        64,
        "--device",
        "cpu",
        "--loss-on",
        "all",
    )
    every = json.loads((tmp_path / "run/eval.json").read_text())["rows"][0]
    assert row["tokens"] < every["tokens"]
    assert row["loss"] != every["loss"]
