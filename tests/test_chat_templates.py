"""Conversations as tokens, and which of them the assistant wrote. Oracle: transformers'
``apply_chat_template`` with generation tags in six published templates.
"""

import json

import numpy as np
import pytest
from chats import NAMED, conversations, published, put_chat, tagged
from transformers import AutoTokenizer

from minipuzzle.data import Tokenizer
from minipuzzle.data.conversations import Conversations

COUNT = 200


@pytest.fixture(scope="module")
def oracles(tmp_path_factory):
    """(folder, transformers' tokenizer) of a tokenizer with each template's tags."""
    folder = tmp_path_factory.mktemp("words")
    theirs = AutoTokenizer.from_pretrained(put_chat(folder, ""))
    return folder, theirs


def read(folder, template, rows, loss_on="assistant"):
    (folder / "chat_template.jinja").write_text(template)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = Conversations(tokenizer=Tokenizer.load(folder), loss_on=loss_on)
    return list(reader.read(folder / "a.jsonl")), reader


def since_user(messages, turn):
    """The assistant's turns from the user's last words before ``turn`` up to it."""
    start = max(i for i in range(turn) if messages[i]["role"] == "user")
    return [m for m in messages[start : turn + 1] if m["role"] == "assistant"]


def nests(name, messages, tools, turn):
    """Whether a turn is rendered in the whole as when it was written, which is a matter of what the
    template drops.
    """
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    if name == "qwen3":  # thoughts before the last question; an empty one is written at the end
        return turn > last and (
            turn == len(messages) - 1 or bool(messages[turn].get("reasoning_content"))
        )
    if name == "nemotron":  # thoughts before the last question, white space before calls
        return turn > last or not any(
            "reasoning_content" in m
            or ("tool_calls" in m and (m["content"] or "") != (m["content"] or "").lstrip())
            for m in since_user(messages, turn)
        )
    if name == "mistral":  # tools stand at the last question, the system's words if it is the end
        system = messages[0]["role"] == "system" and messages[turn - 1]["role"] == "user"
        return (turn > last or tools is None) and not system
    return True


@pytest.mark.parametrize("name", NAMED)
def test_tokens_and_marks_are_those_of_transformers(oracles, name):
    folder, theirs = oracles
    given = conversations(COUNT // len(NAMED) + 1, name, seed=len(name))
    rows = [{"messages": messages, "tools": tools} for messages, tools in given]
    expected = []
    for messages, tools in given:
        found = theirs.apply_chat_template(
            messages,
            tools=tools,
            chat_template=tagged(name),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        plain = theirs.apply_chat_template(
            messages, tools=tools, chat_template=published(name), tokenize=True, return_dict=True
        )
        assert plain["input_ids"] == found["input_ids"]  # the tags change no word
        expected.append((found["input_ids"], np.array(found["assistant_masks"]) == 1))
    ours, reader = read(folder, tagged(name), rows)
    assert reader.missed == reader.silent == 0
    for (ids, mask), example in zip(expected, ours, strict=True):
        assert example.tokens.tolist() == ids
        assert np.array_equal(example.wanted, mask)

    found, reader = read(folder, published(name), rows)
    found = iter(found)
    silent = missed = marked = 0
    for (ids, mask), (messages, tools) in zip(expected, given, strict=True):
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        kept = [nests(name, messages, tools, turn) for turn in turns]
        missed += kept.count(False)
        spans = np.split(
            np.flatnonzero(mask), np.flatnonzero(np.diff(np.flatnonzero(mask)) > 1) + 1
        )
        assert len(spans) == len(turns)
        wanted = np.zeros(len(ids), bool)
        for span, keep in zip(spans, kept, strict=True):
            wanted[span] = keep
        marked += int(wanted.sum())
        if not wanted.any():
            silent += 1
            continue
        example = next(found)
        assert example.tokens.tolist() == ids
        assert np.array_equal(example.wanted, wanted)
    assert (reader.missed, reader.silent, next(found, None)) == (missed, silent, None)
    assert marked > 100
