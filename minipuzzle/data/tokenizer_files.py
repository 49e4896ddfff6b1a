"""A tokenizer out of the files of a checkpoint, with the tokens that transformers' AutoTokenizer
gives.

tokenizer.json is not all: tokenizer_config.json adds tokens to it and names the special ones, and
for some classes transformers 5 keeps only its vocabulary and merges and builds the rest anew. What
is not known to be read as there is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipuzzle.data.files import encodable
from minipuzzle.data.tokenizer_classes import REBUILT, REFUSED, rebuild
from minipuzzle.errors import UserError

SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
ALWAYS_PLAIN = ("granitemoehybrid", "mistral")
"""Model types whose tokenizer.json transformers takes as it is, whatever class is named."""

CLASS_OF_TYPE = {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "mamba2": "GPTNeoXTokenizer"}
"""What transformers takes where the files name no class."""


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
    data, config = _object(file), _config(folder)
    model_config = _optional(folder / "config.json")
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
    listed = _listed(folder, config, data)
    applied: list[Any] = []
    if name in REBUILT:
        with reported(file):
            made = rebuild(name, data, made, config)
        applied.append([name, config.get("add_prefix_space"), config.get("legacy")])
        config = REBUILT[name] | config
    special = _special(folder, config)
    _check_ends(folder, made, listed, config)
    with reported(folder / "tokenizer_config.json"):
        added = _add(made, listed, special)
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
        names={key: text for key in SPECIAL if (text := _text(config.get(key))) is not None},
        ends=_ends(folder, model_config),
        cleans=bool(config.get("clean_up_tokenization_spaces")) and data["model"]["type"] != "BPE",
        fingerprint=digest.hexdigest()[:16],
    )


@contextmanager
def reported(file: Path) -> Iterator[None]:
    """Where ``tokenizers`` works, whose errors have no type: they become a UserError about
    ``file``.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{file} cannot be read.",
            got=error,
            allowed="a tokenizer of Hugging Face tokenizers",
            next="Copy the tokenizer's files again from the model.",
        ) from error


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(value, dict):
        raise _unreadable(file, f"{type(value).__name__}: {str(value)[:60]}")
    return value


def _unreadable(file: Path, got: object) -> UserError:
    return UserError(
        f"{file} cannot be read.",
        got=got,
        allowed="a JSON object",
        next="Copy it again from the model.",
    )


def _optional(file: Path) -> dict[str, Any]:
    return _object(file) if file.is_file() else {}


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, under special_tokens_map.json where it lists no added tokens."""
    config = _optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _optional(folder / "special_tokens_map.json")
    return config


def _class_name(config: dict[str, Any], model: dict[str, Any], data: dict[str, Any]) -> str:
    """The class that AutoTokenizer takes, without "Fast". Raises: UserError for one not applied."""
    kind, named = (
        model.get("model_type"),
        config.get("tokenizer_class") or model.get("tokenizer_class"),
    )
    name = str(named or CLASS_OF_TYPE.get(str(kind), "")).removesuffix("Fast")
    if kind in ALWAYS_PLAIN:
        return ""
    if kind == "qwen2":  # other classes are known to be named by mistake there
        name = "Qwen2Tokenizer"
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


def _listed(folder: Path, config: dict[str, Any], data: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens to add, by number: of tokenizer_config.json, else of the older file and
    tokenizer.json.
    """
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"]
        good = isinstance(listed, dict) and all(
            number.isdecimal() and isinstance(token, dict) and _text(token) is not None
            for number, token in listed.items()
        )
        if not good:
            raise _wrong(folder, "added_tokens_decoder", listed, 'numbers with {"content": "..."}')
        return [
            dict(token, id=int(number)) for number, token in sorted(listed.items(), key=_number)
        ]
    special = {_text(config.get(key)) for key in SPECIAL}
    older = _optional(folder / "added_tokens.json")
    if not all(type(number) is int for number in older.values()):
        raise _wrong(folder, "added_tokens.json", older, '{"token": number}')
    tokens = [
        {
            "id": number,
            "content": text,
            "normalized": text not in special,
            "special": text in special,
        }
        for text, number in older.items()
    ]
    numbered = {t["id"]: t for t in tokens} | {t["id"]: t for t in data.get("added_tokens") or []}
    return [numbered[number] for number in sorted(numbered)]


def _special(folder: Path, config: dict[str, Any]) -> list[Any]:
    """The special tokens that are named: strings, or objects with a "content"."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    own = [
        value
        for key, value in config.items()
        if key.endswith("_token")
        and key not in SPECIAL
        and (isinstance(value, str) or (isinstance(value, dict) and "__type" in value))
    ]
    if not isinstance(extra, dict | list):
        raise _wrong(folder, "extra_special_tokens", extra, "a list of tokens")
    named = {key: config[key] for key in SPECIAL if config.get(key) is not None}
    listed = list(extra.values() if isinstance(extra, dict) else extra)
    for key, value in [*named.items(), *(("extra_special_tokens", v) for v in listed + own)]:
        if _text(value) is None:
            raise _wrong(folder, key, value, 'a string, or {"content": "..."}')
    return [*named.values(), *own, *listed]


def _check_ends(
    folder: Path, made: Any, listed: list[dict[str, Any]], config: dict[str, Any]
) -> None:
    """Raises: UserError where a text would begin or end with a token that the model never saw."""
    known = {token["content"] for token in listed}
    for key in ("bos_token", "eos_token"):
        text = _text(config.get(key))
        if text is not None and made.token_to_id(text) is None and text not in known:
            raise UserError(
                f"tokenizer.json does not have the token that is named {key}.",
                got=f"{folder}: {text}",
                allowed="a token of its vocabulary",
                next=f"Correct {key} in tokenizer_config.json.",
            )


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _add(made: Any, listed: list[dict[str, Any]], named: list[Any]) -> list[tuple[int, str]]:
    """Add the listed and the named tokens as transformers does; returns all added ones by
    number.
    """
    import tokenizers

    known = {token.content for token in made.get_added_tokens_decoder().values()}
    tokens = [
        tokenizers.AddedToken(**{k: v for k, v in token.items() if k not in ("id", "__type")})
        for token in listed
    ]
    known |= {token.content for token in tokens}
    for value in named:
        text = _text(value)
        if text is not None and text not in known:
            known.add(text)
            fields = value if isinstance(value, dict) else {"content": text}
            fields = {k: v for k, v in fields.items() if k != "__type"} | {"special": True}
            tokens.append(tokenizers.AddedToken(**fields))
    made.add_tokens(tokens)
    for token in listed:
        if made.token_to_id(token["content"]) != token["id"]:
            raise UserError(
                f"tokenizer_config.json and tokenizer.json number {token['content']} differently.",
                got=f"{token['id']} and {made.token_to_id(token['content'])}",
                allowed="one number",
                next="Copy both files again from the model.",
            )
    return [
        (number, token.content) for number, token in sorted(made.get_added_tokens_decoder().items())
    ]


def _ends(folder: Path, model: dict[str, Any]) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, else of config.json: a number or several."""
    given = _optional(folder / "generation_config.json").get("eos_token_id")
    given = model.get("eos_token_id") if given is None else given
    numbers = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise _wrong(folder, "eos_token_id", given, "a token's number, or a list of them")
    return tuple(numbers)


def _text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and encodable(text) else None


def _wrong(folder: Path, key: str, value: Any, allowed: str) -> UserError:
    return UserError(
        f"{key} in the tokenizer's files has no meaning.",
        got=f"{folder}: {json.dumps(value)[:60]}",
        allowed=allowed,
        next="Copy the tokenizer's files again from the model.",
    )
