"""Prompts with answers as tokens. Oracle: transformers' text of both together is the line's."""

import json

import pytest
from tokenizer_kinds import KINDS, put
from transformers import AutoTokenizer

from minipuzzle.data import Tokenizer, load_blocks

EXAMPLES = [
    ("two and two:", "four"),
    ("two and two: ", "two"),
    ("a", " b"),
    ("a\n", "\nb"),
    ("def f(", "x):\n    return 1"),
    ("naïve ", "café"),
    ("so", "; isn"),
    ("x.", ".y"),
    ("The", "re"),
]


@pytest.mark.parametrize(
    "kind",
    [
        "llama2",
        "llama2 no strip",
        "unigram always",
        "unigram first",
        "unigram never",
        "byte level",
        "byte level added",
    ],
)
def test_an_answer_follows_its_prompt_directly(tmp_path, kind):
    put(tmp_path / "tokenizer", KINDS[kind]())
    rows = [json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in EXAMPLES]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    ours, theirs = (
        Tokenizer.load(tmp_path / "tokenizer"),
        AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
    )
    blocks = load_blocks(tmp_path / "a.jsonl", ours, block_length=64)
    seen = set()
    for tokens, segments in zip(blocks.tokens, blocks.documents, strict=True):
        for k in range(int(segments.max()) // 2):
            example = tokens[(segments == 2 * k) | (segments == 2 * k + 1)].tolist()
            assert example.pop() == ours.eos_id
            seen.add(theirs.decode(example).removeprefix(" " if kind == "llama2 no strip" else ""))
            prompt = tokens[segments == 2 * k].tolist()  # as generation will read it
            assert any(prompt == ours.encode(p, special_tokens=False) for p, _ in EXAMPLES)
    assert seen == {prompt + answer for prompt, answer in EXAMPLES}
