"""A tokenizer out of the files of a checkpoint, with the tokens that transformers' AutoTokenizer
gives.

tokenizer.json is not all: tokenizer_config.json adds tokens to it and names the special ones, and
for some classes transformers 5 keeps only its vocabulary and merges and builds the rest anew. What
is not known to be read as there is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipuzzle.data.added_tokens import (
    SPECIAL,
    add_tokens,
    check_ends,
    listed_tokens,
    special_tokens,
)
from minipuzzle.data.tokenizer_classes import REBUILT, REFUSED, rebuild
from minipuzzle.data.tokenizer_json import (
    meaningless,
    read_object,
    read_optional,
    reported,
    token_text,
)
from minipuzzle.errors import UserError

ALWAYS_PLAIN = (
    "granite",
    "granitemoehybrid",
    "mistral",
    "mixtral",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "phi3",
)
"""Model types whose tokenizer.json transformers takes as it is, whatever class is named."""

QWEN3_5 = ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
CLASS_OF_TYPE = {
    **dict.fromkeys(("qwen2", "qwen3", "qwen3_moe", "qwen3_next"), "Qwen2Tokenizer"),
    **dict.fromkeys(QWEN3_5, "Qwen3_5Tokenizer"),
    **dict.fromkeys(("mamba2", "olmoe"), "GPTNeoXTokenizer"),
}
"""What transformers takes where the files name no class."""
ALWAYS_OF_TYPE = {*QWEN3_5, "qwen2"} - {"qwen3_5_text"}
"""Where other classes are known to be named by mistake."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """``tokenizer`` is a ``tokenizers.Tokenizer`` with everything applied; ``names`` the special
    tokens by attribute ("eos_token"); ``ends`` the numbers that the configs of generation and model
    end a text with; ``cleans`` says whether decoding takes spaces before punctuation away.
    ``fingerprint`` is the start of the SHA-256 of tokenizer.json and of what was applied to it.
    """

    tokenizer: Any
    names: dict[str, str]
    ends: tuple[int, ...]
    cleans: bool
    fingerprint: str


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read the tokenizer of a checkpoint's folder.

    Raises: UserError where it has none, a file is damaged, or a field asks for what is not applied.
    """
    import tokenizers

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(
            "The checkpoint has no tokenizer.",
            got=folder,
            allowed="a folder with a tokenizer.json",
            next=(
                "Copy the model's tokenizer files into that folder. Where it has others only, write"
                " one: "
                f'AutoTokenizer.from_pretrained("{folder}").save_pretrained("{folder}") of'
                " transformers."
            ),
        )
    data, config = read_object(file), _config(folder)
    model_config = read_optional(folder / "config.json")
    with reported(file):
        made = tokenizers.Tokenizer.from_file(str(file))
    if (data.get("model") or {}).get("dropout"):
        raise UserError(
            f"{file} drops merges at random.",
            got=f"dropout {data['model']['dropout']}",
            allowed="a tokenizer that gives a text the same tokens each time",
            next="Set its dropout to null.",
        )
    name = _class_name(config, model_config, data)
    listed = listed_tokens(folder, config, data)
    applied: list[Any] = []
    if name in REBUILT:
        with reported(file):
            made = rebuild(name, data, made, config)
        applied.append([name, config.get("add_prefix_space"), config.get("legacy")])
        config = REBUILT[name] | config
    special = special_tokens(folder, config)
    check_ends(folder, made, listed, config)
    with reported(folder / "tokenizer_config.json"):
        added = add_tokens(made, listed, special)
    if added != sorted((t["id"], t["content"]) for t in data.get("added_tokens") or []):
        applied.append(added)
    if config.get("split_special_tokens"):
        made.encode_special_tokens = True
        applied.append("split")
    # a file may ask for both, which would cut documents or fill them with padding
    made.no_truncation()
    made.no_padding()
    digest = hashlib.sha256(file.read_bytes())
    digest.update(json.dumps(applied).encode() if applied else b"")
    return TokenizerFiles(
        tokenizer=made,
        names={key: text for key in SPECIAL if (text := token_text(config.get(key))) is not None},
        ends=_ends(folder, model_config),
        cleans=bool(config.get("clean_up_tokenization_spaces")) and data["model"]["type"] != "BPE",
        fingerprint=digest.hexdigest()[:16],
    )


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, under special_tokens_map.json where it lists no added tokens."""
    config = read_optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= read_optional(folder / "special_tokens_map.json")
    return config


def _class_name(config: dict[str, Any], model: dict[str, Any], data: dict[str, Any]) -> str:
    """The class that AutoTokenizer takes, without "Fast". Raises: UserError for one not applied."""
    kind = model.get("model_type")
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    name = str(named or CLASS_OF_TYPE.get(str(kind), "")).removesuffix("Fast")
    if kind in ALWAYS_PLAIN:
        return ""
    if kind in ALWAYS_OF_TYPE:
        name = CLASS_OF_TYPE[str(kind)]
    elif name == "LlamaTokenizer" and _byte_level(data):
        return ""
    if name in REFUSED or (name in REBUILT and data["model"].get("type") != "BPE"):
        raise UserError(
            "The tokenizer's class is not known here.",
            got=f"{name} around {data['model'].get('type')}",
            allowed=", ".join([*REBUILT, "PreTrainedTokenizerFast"]),
            next=(
                "If tokenizer.json is whole, name PreTrainedTokenizerFast in tokenizer_config.json."
            ),
        )
    return name


def _byte_level(data: dict[str, Any]) -> bool:
    """Whether a step before or after the merges is byte-level: LlamaTokenizer has none."""
    steps = [data.get("pre_tokenizer") or {}, data.get("decoder") or {}]
    inner = [
        s for step in steps for s in step.get("pretokenizers") or step.get("decoders") or [step]
    ]
    return any(step.get("type") == "ByteLevel" for step in inner)


def _ends(folder: Path, model: dict[str, Any]) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, else of config.json or its text_config: a number or
    several.
    """
    given = read_optional(folder / "generation_config.json").get("eos_token_id")
    text = model.get("text_config")
    for config in (model, text if isinstance(text, dict) else {}):  # of a model of several parts
        given = config.get("eos_token_id") if given is None else given
    numbers = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise meaningless(folder, "eos_token_id", given, "a token's number, or a list of them")
    return tuple(numbers)
