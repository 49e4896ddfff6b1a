"""What a saved run is compared by, and the hash of it. No torch.

An object that decides a result says so itself, in a method ``identity()``: its kind where it has
one, and the fields that are not at their defaults. So a new field with a default changes nothing
that was saved before it. A changed default would change what is saved in silence:
tests/test_identity.py holds the defaults, and a change of one asks for a new RUN_SCHEMA.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

Plain = None | bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"]


def changed(value: Any, *, without: Sequence[str] = ()) -> dict[str, Plain]:
    """The fields of a dataclass that are not at their defaults, but those named ``without``.

    Raises: TypeError for a field that holds what ``plain`` does not know.
    """
    return {
        field.name: plain(held)
        for field in fields(value)
        if field.name not in without and (held := getattr(value, field.name)) != _default(field)
    }


def plain(value: Any) -> Plain:
    """``None``, booleans, numbers, texts, and sequences and tables of them; of a dataclass its
    ``identity()``, or else what is ``changed`` in it. Equal values have one plain form: 1.0 is 1.

    Raises: TypeError for any other type, by its name.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {_key(key): plain(each) for key, each in value.items()}
    if is_dataclass(value):
        said: dict[str, Plain] = value.identity() if hasattr(value, "identity") else changed(value)
        return said
    raise TypeError(f"no identity is known of {type(value).__module__}.{type(value).__qualname__}")


def fingerprint(*parts: Plain) -> str:
    """16 hexadecimal digits that change when any part does.

    Raises: TypeError for a part that is not plain: who has an object passes its ``identity()``.
    """
    digest = hashlib.sha256()
    for part in parts:
        _check(part)
        digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _check(part: Any) -> None:
    if isinstance(part, tuple | list):
        for each in part:
            _check(each)
    elif isinstance(part, dict):
        for key, each in part.items():
            _check(_key(key))
            _check(each)
    elif part is not None and type(part) not in (bool, int, float, str):
        name = f"{type(part).__module__}.{type(part).__qualname__}"
        raise TypeError(f"a fingerprint is made of plain values, not of {name}")


def _key(key: Any) -> str:
    if type(key) is not str:
        raise TypeError(f"a table's key is a text, not {key!r}")
    return key


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
