"""tokenizer.json and tokenizer_config.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import DEEP, NO_FILES, RANDOM, VALUES, cpu, edit, in_place_of, put, remove, score, write

FILE, CONFIG, MAP = "ck/tokenizer.json", "ck/tokenizer_config.json", "ck/special_tokens_map.json"
CONFIGS = {
    "empty": "",
    "list": "[]",
    "null": "null",
    "number": "3",
    "not text": b"\xff",
    "deep": DEEP,
    "digits": "9" * 5000,
    **{
        f"{token} {name}": json.dumps({f"{token}_token": value})
        for token in ("eos", "bos")
        for name, value in {
            "number": 3,
            "list": ["a"],
            "unknown": "<nope>",
            "table": {"x": 1},
            "content number": {"content": 3},
            "null": None,
            "half": "\ud800",
            "empty": "",
        }.items()
    },
    "template number": '{"chat_template": 3}',
    "template list": '{"chat_template": ["a"]}',
    "template": '{"chat_template": "{{"}',
}


def cases(base: Path) -> Iterator[tuple[Any, ...]]:
    """Read for scoring a text, and for generating one."""
    raw = (base / FILE).read_text()
    whole = json.loads(raw)
    vocabulary = whole["model"]["vocab"]
    texts = {
        "cut": raw[: len(raw) // 2],
        "empty": "",
        "list": "[]",
        "null": "null",
        "number": "1",
        "not text": b"\xff\xfe",
        "deep": DEEP,
        "page": "<html>404</html>",
        "no model": "{}",
        "random": RANDOM,
        "digits": '{"model": ' + "9" * 5000 + "}",
        "pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
    }
    for name, text in texts.items():
        yield name, score("ck"), write(FILE, text)
    yield "missing", score("ck"), remove(FILE)
    for file in (FILE, CONFIG, MAP):
        for kind in NO_FILES:
            yield f"{file}: {kind}", score("ck"), *in_place_of(file, kind)
    models = {
        "type": {"type": "Unigram"},
        "unknown type": {"type": "X"},
        "no words": {"vocab": {}},
        "null words": {"vocab": None},
        "negative": {"vocab": {"a": -1}},
        "too many": {"vocab": {**vocabulary, "zzzz": 5000}},
        "fraction": {"vocab": {"a": 1.5}},
        "far": {"vocab": {**vocabulary, "zzzz": 2**32 - 1}},
        "farther": {"vocab": {**vocabulary, "zzzz": 2**40}},
        "few": {"vocab": dict(list(vocabulary.items())[:300]), "merges": []},
        "bad merges": {"merges": ["a b c"]},
        "unknown merges": {"merges": [["qq", "zzq"]]},
        "a number twice": {"vocab": {**vocabulary, "zzzz": 5}},
    }
    for name, fields in models.items():
        yield (
            f"model: {name}",
            score("ck"),
            edit(FILE, lambda found, fields=fields: found["model"].update(fields)),
        )
    for key in whole:
        for name in ("null", "text", "negative", "list", "table", "missing"):
            yield f"{key} is {name}", score("ck"), edit(FILE, put(key, VALUES[name]))
    for file in (CONFIG, MAP):
        for name, text in CONFIGS.items():
            yield f"{file}, score: {name}", score("ck"), write(file, text)
            yield (
                f"{file}, generate: {name}",
                cpu("generate", "ck", "hello", "--tokens", 2),
                write(file, text),
            )
