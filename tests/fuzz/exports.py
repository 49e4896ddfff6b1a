"""Exports to GGUF: targets, dtypes, tokenizers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import DEEP, edit, put, remove, write

EXPORT = ("export", "ck", "--gguf", "x.gguf")
TARGETS = (
    "/proc/x.gguf",
    "/dev/full",
    "nodir/x.gguf",
    "ck",
    ".",
    "text.txt/x.gguf",
    "",
    "a\0.gguf",
    "ck/model.safetensors",
    "a" * 300,
    "/dev/null",
    "ck/config.json",
)


def cases(base: Path) -> Iterator[tuple[Any, ...]]:
    """A GGUF file of the checkpoint."""
    for target in TARGETS:
        yield f"to {target[:20]!r}", ("export", "ck", "--gguf", target)
    for dtype in ("q4_0", "", "F16", "fp16", "bf-16", "8", "q8_0 ", "None"):
        yield f"dtype {dtype!r}", (*EXPORT, "--dtype", dtype)
    yield "no student", ("export", "--run", "nope")
    yield "no checkpoint", ("export", ".")
    yield "too many words", EXPORT, edit("ck/tokenizer.json", put(("model", "vocab", "zzzz"), 9999))
    yield "no tokenizer", EXPORT, remove("ck/tokenizer.json")
    for kind in ("WordLevel", "WordPiece", "Unigram", 3):
        yield f"tokenizer {kind}", EXPORT, edit("ck/tokenizer.json", put(("model", "type"), kind))
    for name, value in {
        "number": 3,
        "table": {"a": 1},
        "list": ["x"],
        "half": "\ud800",
        "empty": "",
    }.items():
        yield (
            f"chat template {name}",
            EXPORT,
            edit("ck/tokenizer_config.json", put("chat_template", value)),
        )
        yield f"eos {name}", EXPORT, edit("ck/tokenizer_config.json", put("eos_token", value))
    yield "template not text", EXPORT, write("ck/chat_template.jinja", b"\xff\xfe")
    yield "template folder", EXPORT, lambda folder: (folder / "ck/chat_template.jinja").mkdir()
    yield "template pipe", EXPORT, lambda folder: os.mkfifo(folder / "ck/chat_template.jinja")
    yield "generation config", EXPORT, write("ck/generation_config.json", DEEP)
