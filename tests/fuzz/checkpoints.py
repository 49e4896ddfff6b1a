"""config.json of a checkpoint, whole and field by field, of every family."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import DEEP, MISSING, NO_FILES, RANDOM, VALUES, edit, in_place_of, put, score, write

FILE = "ck/config.json"
INSPECT = ("inspect", "ck")
TEXTS = {
    "empty": "",
    "brace": "{",
    "list": "[]",
    "null": "null",
    "number": "5",
    "text": '"x"',
    "byte order mark": "\ufeff{}",
    "UTF-16": b"\xff\xfe{",
    "deep": DEEP,
    "deep table": '{"a":' * 50_000,
    "random": RANDOM,
    "huge": '{"vocab_size": 1e999}',
    "zero byte": b'{"model_type":"nemotron_h\x00"}',
    "digits": '{"vocab_size": ' + "9" * 5000 + "}",
    "half a character": '{"model_type": "\\ud800"}',
}
PATTERNS = (
    "",
    "X",
    "M" * 100_000,
    "M-M*-M",
    "M-M*-M-M",
    "m-m*-m-",
    "MEM*-M-",
    None,
    ["M", "-"],
    "M M*-M-",
    "-------",
    "M-M|-M-",
    5,
    "\u2212M",
)
FIELDS = (
    "missing",
    "null",
    "text",
    "negative",
    "zero",
    "huge",
    "fraction",
    "list",
    "table",
    "nan",
    "true",
)


def configs(base: Path) -> Iterator[tuple[Any, ...]]:
    """The tiny Nemotron-H: read for inspect, and for score, which opens the weights too."""
    config = json.loads((base / "ck/config.json").read_text())
    for key in config:
        for name, value in VALUES.items():
            yield f"inspect, {key} is {name}", INSPECT, edit(FILE, put(key, value))
            if name in FIELDS:
                yield f"score, {key} is {name}", score("ck"), edit(FILE, put(key, value))
    for name, text in TEXTS.items():
        yield f"inspect, {name}", INSPECT, write(FILE, text)
        yield f"score, {name}", score("ck"), write(FILE, text)
    yield "in text_config", INSPECT, edit(FILE, lambda config: {"text_config": config})
    for pattern in PATTERNS:
        name = f"pattern {str(pattern)[:12]!r} {len(str(pattern))}"
        yield name, score("ck"), edit(FILE, put("hybrid_override_pattern", pattern))
    for kind in NO_FILES:
        yield kind, INSPECT, *in_place_of(FILE, kind)
    for name in ("ck/config.json", "nope", "", "a\0b", "a" * 5000, "/dev/zero", "/", "~"):
        yield f"path {name[:20]!r}", ("inspect", name)


def families(base: Path) -> Iterator[tuple[Any, ...]]:
    """Every field, and every field inside one, of a config of each family."""
    for family, config in family_configs().items():
        for key, value in config.items():
            for name in FIELDS:
                yield (
                    f"{family}.{key} is {name}",
                    ("inspect", "fam"),
                    _changed(config, (key,), VALUES[name]),
                )
            for inner in value if isinstance(value, dict) else ():
                for name in FIELDS:
                    yield (
                        f"{family}.{key}.{inner} is {name}",
                        ("inspect", "fam"),
                        _changed(config, (key, inner), VALUES[name]),
                    )


def family_configs() -> dict[str, dict[str, Any]]:
    """The richest tiny form of each family, as transformers writes it: what the form says and what
    classes read.
    """
    from family_models import FORMS
    from transformers import AutoConfig

    kept = {
        "model_type",
        "num_hidden_layers",
        "head_dim",
        "rope_parameters",
        "layer_types",
        "hidden_act",
        "attn_layer_indices",
    }
    found = {}
    for family, forms in FORMS.items():
        form = list(forms.values())[-1]
        whole = json.loads(AutoConfig.for_model(family, **form).to_json_string(use_diff=False))
        found[family] = {key: value for key, value in whole.items() if key in form or key in kept}
    return found


def _changed(config: dict[str, Any], where: tuple[str, ...], value: Any) -> Any:
    changed = copy.deepcopy(config)
    if value is not MISSING or len(where) == 1 or where[-1] in changed[where[0]]:
        put(where, value)(changed)
    return write("fam/config.json", changed)
