"""Recipes read from YAML, strictly: unknown keys are errors that name the nearest known one. No
torch.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from minipuzzle.artifacts import read_text
from minipuzzle.errors import UserError
from minipuzzle.identity import plain

T = TypeVar("T")
LARGEST = 10**300
"""Of whole numbers that are read where any number is asked for: larger ones are no floats."""
RENAMED = {
    "checkpoint_seconds": "save_every",
    "least": "min_keep",
    "own_heads": "per_block_heads",
    "router": "train",
}
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
"""Numbers that are words to PyYAML, which follows YAML 1.1: 5e-4 and 1.5e6 (to it only 5.0e-4 and
1.5e+6 are numbers).
"""


def load_recipe(path: Path, kind: type[T]) -> T:
    """The recipe in a YAML file. Raises: UserError for a missing file, bad YAML, an unknown key or
    a wrong type.
    """
    import yaml

    if not path.is_file():
        shipped = (
            ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none in that folder"
        )
        raise UserError(
            "There is no such recipe.",
            got=path,
            allowed=f"a YAML file ({shipped})",
            next="Check the path.",
        )
    again = "Fix the line it names."
    text = read_text(path, next="Name a recipe, or write it anew.")
    try:
        values = yaml.safe_load(text)
    except RecursionError as error:
        raise UserError(
            f"{path} is nested too deeply.", got=error, allowed="YAML of a few levels", next=again
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no date, or thousands of digits
        raise UserError(f"{path} is not YAML.", got=error, allowed="YAML", next=again) from error
    return build(kind, values if values is not None else {}, str(path.name))


def build(kind: type[T], values: Any, where: str) -> T:
    """``kind`` made from nested dictionaries, strictly: every key known, every value of the field's
    type.
    """
    if not isinstance(values, dict):
        raise UserError(
            f"{where} should hold keys and values.",
            got=reprlib.repr(values),
            allowed="a mapping",
            next="Write it as key: value lines.",
        )
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            # reprlib: aliases make a value of a few lines a billion words long
            shown = key if isinstance(key, str) else reprlib.repr(key)
            close = difflib.get_close_matches(shown, known, n=1, cutoff=0.0)
            near = RENAMED.get(shown, close[0])
            raise UserError(
                f"{where}: unknown key {shown!r}.",
                got=shown,
                allowed=", ".join(known),
                next=f"Did you mean {near!r}?",
            )
    parsed = _parsed(kind)
    made = {
        key: value
        if isinstance(value, str) and key in parsed
        else _convert(hints[key], value, f"{where}: {key}")
        for key, value in values.items()
    }
    try:
        return kind(**made)
    except TypeError as error:
        raise UserError(
            f"{where} is incomplete.",
            got=error,
            allowed=", ".join(known),
            next="Add the missing key.",
        ) from error


def _parsed(kind: Any) -> set[str]:
    # Their texts ("128k", "63B") the settings make numbers of themselves.
    said = {f.name: f.metadata.get("setting") for f in fields(kind)}
    return {name for name, setting in said.items() if setting is not None and setting.parse}


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint in (int, float):
        value = _number(value)
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        each = typing.get_args(hint)[0]
        return tuple(
            _convert(each, v, where) for v in (value if isinstance(value, list) else [value])
        )
    if origin is Literal:
        good, allowed = (
            value in typing.get_args(hint),
            " or ".join(map(repr, typing.get_args(hint))),
        )
    elif hint is float:
        good, allowed = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        good = good and not (isinstance(value, int) and abs(value) > LARGEST)
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 63e9 tokens
    elif hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    else:
        plain = dict if origin is dict else hint
        good = isinstance(value, plain) and not (hint is int and isinstance(value, bool))
        allowed = getattr(plain, "__name__", str(plain))
    if isinstance(hint, types.UnionType) or not good:
        raise UserError(
            f"{where} has a value of the wrong kind.",
            got=reprlib.repr(value),
            allowed=allowed,
            next="Change the value.",
        )
    if origin is dict:
        _check_plain(value, where)
        return {key: _number(each) for key, each in value.items()}
    return float(value) if hint is float else value


def _check_plain(value: Any, where: str) -> None:
    try:
        plain(value)
    except TypeError as error:  # a date, which YAML has and JSON has not, or a key that is no text
        raise UserError(
            f"{where} holds what JSON has not.",
            got=error,
            allowed="texts, numbers, true, false, null, and lists and tables of them",
            next="Put it in quotes.",
        ) from error


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value
