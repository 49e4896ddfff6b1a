"""The tokens that a tokenizer's configs add to those of tokenizer.json, and the special ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minipuzzle.data.tokenizer_json import meaningless, read_optional, token_text
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


def listed_tokens(
    folder: Path, config: dict[str, Any], data: dict[str, Any]
) -> list[dict[str, Any]]:
    """Tokens to add, by number: of tokenizer_config.json, else of the older file and
    tokenizer.json.
    """
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"]
        good = isinstance(listed, dict) and all(
            number.isdecimal() and isinstance(token, dict) and token_text(token) is not None
            for number, token in listed.items()
        )
        if not good:
            raise meaningless(
                folder, "added_tokens_decoder", listed, 'numbers with {"content": "..."}'
            )
        return [
            dict(token, id=int(number)) for number, token in sorted(listed.items(), key=_number)
        ]
    special = {token_text(config.get(key)) for key in SPECIAL}
    older = read_optional(folder / "added_tokens.json")
    if not all(type(number) is int for number in older.values()):
        raise meaningless(folder, "added_tokens.json", older, '{"token": number}')
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


def special_tokens(folder: Path, config: dict[str, Any]) -> list[Any]:
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
        raise meaningless(folder, "extra_special_tokens", extra, "a list of tokens")
    named = {key: config[key] for key in SPECIAL if config.get(key) is not None}
    listed = list(extra.values() if isinstance(extra, dict) else extra)
    for key, value in [*named.items(), *(("extra_special_tokens", v) for v in listed + own)]:
        if token_text(value) is None:
            raise meaningless(folder, key, value, 'a string, or {"content": "..."}')
    return [*named.values(), *own, *listed]


def check_ends(
    folder: Path, made: Any, listed: list[dict[str, Any]], config: dict[str, Any]
) -> None:
    """Raises: UserError where a text would begin or end with a token that the model never saw."""
    known = {token["content"] for token in listed}
    for key in ("bos_token", "eos_token"):
        text = token_text(config.get(key))
        if text is not None and made.token_to_id(text) is None and text not in known:
            raise UserError(
                f"tokenizer.json does not have the token that is named {key}.",
                got=f"{folder}: {text}",
                allowed="a token of its vocabulary",
                next=f"Correct {key} in tokenizer_config.json.",
            )


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def add_tokens(made: Any, listed: list[dict[str, Any]], named: list[Any]) -> list[tuple[int, str]]:
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
        text = token_text(value)
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
