"""Tokenizer files with wrong values anywhere in them: read or refused, never a traceback."""

import copy
import json
import random

import pytest
from tokenizer_kinds import KINDS, NAMES

from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.export.gguf_tokenizer import described

VALUES = [
    None,
    [],
    {},
    3,
    -1,
    1e300,
    "x",
    "\ud83d",
    True,
    [[]],
    "a" * 5000,
    {"content": 3},
    10**30,
    "</s>",
    [1, 2],
    float("nan"),
]
FILES = {
    "tokenizer_config": {
        **NAMES,
        "pad_token": {"content": "</s>", "__type": "AddedToken", "lstrip": False},
        "extra_special_tokens": ["<s>"],
        "added_tokens_decoder": {
            "0": {"content": "<unk>", "special": True},
            "2": {"content": "</s>", "special": True},
        },
        "clean_up_tokenization_spaces": True,
        "split_special_tokens": False,
        "add_prefix_space": True,
        "chat_template": "a",
    },
    "special_tokens_map": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
    "generation_config": {"eos_token_id": [2, 3]},
    "added_tokens": {"<s>": 1},
    "config": {"eos_token_id": 2},
}


def places(value, path=()):
    """Every place in a JSON value, of long lists and objects the first ones."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in list(items)[:20]:
        yield from places(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


@pytest.mark.parametrize("kind", ["byte level", "llama2", "unigram always", "wordpiece"])
def test_any_wrong_value_is_read_or_refused(tmp_path, kind):
    whole = {**FILES, "tokenizer": json.loads(KINDS[kind]().to_str())}
    rng = random.Random(kind)
    refused = 0
    for _ in range(40):
        files = copy.deepcopy(whole)
        if rng.random() < 0.5:
            del files["tokenizer_config"]["added_tokens_decoder"]
        files["tokenizer_config"]["tokenizer_class"] = rng.choice(
            ["LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", None]
        )
        name = rng.choice(list(files))
        path = rng.choice(list(places(files[name])))
        files[name] = changed(files[name], path, rng.choice(VALUES))
        for file, value in files.items():
            (tmp_path / f"{file}.json").write_text(json.dumps(value))
        try:
            ours = Tokenizer.load(tmp_path)
            for text in ("The quick  fox\n", "", "x </s> y é天"):
                ours.decode(ours.encode(text, special_tokens=True))
            described(ours)
        except UserError:
            refused += 1
    assert refused > 6
