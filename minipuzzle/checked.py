"""What a file that is read back must hold: values against shapes, names that become paths. No
torch.

A shape is a type: int, float, str, bool, None, ``X | Y``, list[X], dict[str, X] or Mapping[str, X],
tuple[X, Y], tuple[X, ...], a dataclass or a TypedDict (keys that it does not name are let through),
Any, or ``Annotated[X, Must(...)]``. Numbers are finite and whole ones fit 64 bits.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any

from minipuzzle.errors import UserError

AGAIN = "Restore the file, or run the stage again that writes it."


@dataclass(frozen=True)
class Must:
    """A condition on a value of a shape, and its words: "at least 1". ``alone`` is a condition in
    place of the shape's own.
    """

    hold: Callable[[Any], bool]
    words: str
    alone: bool = False


def is_plain_name(name: str) -> bool:
    """Whether a name from a file may become a part of a path: it stays in its folder, not
    hidden.
    """
    return (
        0 < len(name) <= 128
        and not name.startswith((".", "-"))
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
    )


Name = Annotated[str, Must(is_plain_name, "a name of a file without folders in it")]
Count = Annotated[int, Must(lambda value: value >= 0, "at least 0")]
Positive = Annotated[int, Must(lambda value: value >= 1, "at least 1")]


def require(value: Any, shape: Any, *, what: str, next: str = AGAIN) -> Any:
    """The value itself where it has the shape. Raises: UserError that names the place of a
    fault.
    """
    found = fault(value, shape)
    if found is not None:
        where, got, allowed = found
        place = f" at {where.lstrip('.')}" if where else ""
        raise UserError(
            f"{what} does not hold what it should{place}.", got=got, allowed=allowed, next=next
        )
    return value


def fault(value: Any, shape: Any, where: str = "") -> tuple[str, str, str] | None:
    """(the first place where a value has another shape, what is there, what is allowed), or
    None.
    """
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if shape is Any:
        return None
    if origin is Annotated:
        must = arguments[1]
        return (None if must.alone else fault(value, arguments[0], where)) or (
            None if must.hold(value) else (where, _short(value), must.words)
        )
    if origin in (types.UnionType, typing.Union):
        found = [fault(value, each, where) for each in arguments]
        # Of several faults the deepest says most: a key of the table, not "no None".
        return (
            None
            if None in found
            else max((f for f in found if f is not None), key=lambda f: len(f[0]))
        )
    if origin is typing.Literal:
        return (
            None
            if value in arguments
            else (where, _short(value), " or ".join(map(repr, arguments)))
        )
    if typing.is_typeddict(shape) or is_dataclass(shape):
        return _fault_of_table(value, shape, where)
    if origin is list or (origin is tuple and arguments[1:] == (Ellipsis,)):
        if arguments[0] is int and isinstance(value, list) and all(type(v) is int for v in value):
            value = [min(value, default=0), max(value, default=0)]  # millions of kept channels
        return _first(
            value,
            list,
            where,
            lambda: ((f"{where}[{i}]", v, arguments[0]) for i, v in enumerate(value)),
        )
    if origin in (dict, Mapping):
        return _first(
            value,
            dict,
            where,
            lambda: (
                pair
                for k, v in value.items()
                for pair in (
                    (f"{where}.{_short(k)}", k, arguments[0]),
                    (f"{where}.{_short(k)}", v, arguments[1]),
                )
            ),
        )
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(arguments):
            return where, _short(value), f"a list of {len(arguments)}"
        return _first(
            value,
            list,
            where,
            lambda: (
                (f"{where}[{i}]", v, s)
                for i, (v, s) in enumerate(zip(value, arguments, strict=True))
            ),
        )
    return None if _is_plain(value, shape) else (where, _short(value), _WORDS[shape])


def _fault_of_table(value: Any, shape: Any, where: str) -> tuple[str, str, str] | None:
    if not isinstance(value, dict):
        return where, _short(value), _WORDS[dict]
    needed, hints = _keys(shape)
    for key in needed:
        if key not in value:
            return where, f"no key {key!r}", f"the keys {', '.join(needed)}"
    found = (
        fault(value[key], hint, f"{where}.{key}") for key, hint in hints.items() if key in value
    )
    return next((f for f in found if f is not None), None)


@lru_cache
def _keys(shape: Any) -> tuple[list[str], dict[str, Any]]:
    """(the keys that a table must have, the shape of every key)."""
    if is_dataclass(shape):
        hints = typing.get_type_hints(shape, include_extras=True)
        bare = (MISSING, MISSING)
        needed = [f.name for f in fields(shape) if (f.default, f.default_factory) == bare]
        return needed, {f.name: hints[f.name] for f in fields(shape)}
    # Not __required_keys__, which takes annotations that are text (PEP 563) for required ones all.
    hints = typing.get_type_hints(shape, include_extras=True)
    needed = [
        key for key, hint in hints.items() if typing.get_origin(hint) is not typing.NotRequired
    ]
    return needed, {
        key: hint if key in needed else typing.get_args(hint)[0] for key, hint in hints.items()
    }


def make(shape: Any, value: Any) -> Any:
    """A value that ``fault`` finds nothing wrong with, as what the shape says: tables become
    dataclasses, lists tuples.
    """
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if origin is Annotated:
        return make(arguments[0], value)
    if origin in (types.UnionType, typing.Union):
        return make(next(each for each in arguments if fault(value, each) is None), value)
    if is_dataclass(shape) and isinstance(shape, type):
        hints = _keys(shape)[1]
        return shape(**{key: make(hints[key], value[key]) for key in hints if key in value})
    if origin is list:
        return [make(arguments[0], each) for each in value]
    if origin is tuple and arguments[1:] == (Ellipsis,):
        if arguments[0] is int:
            return tuple(value)  # millions of kept channels
        return tuple(make(arguments[0], each) for each in value)
    if origin is tuple:
        return tuple(make(s, each) for s, each in zip(arguments, value, strict=True))
    if origin in (dict, Mapping):
        return {key: make(arguments[1], each) for key, each in value.items()}
    return float(value) if shape is float else value


def table(record: Any) -> dict[str, Any]:
    """What ``make`` makes a dataclass from; a field that is None by default is left out where it is
    None.
    """
    held = ((f, getattr(record, f.name)) for f in fields(record))
    return {f.name: _plain(v) for f, v in held if v is not None or f.default is not None}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return table(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if not isinstance(value, list | tuple):
        return value
    if value and type(value[0]) is int:
        return list(value)
    return [_plain(each) for each in value]


def _first(
    value: Any, kind: type, where: str, parts: Callable[[], Any]
) -> tuple[str, str, str] | None:
    if not isinstance(value, kind):
        return where, _short(value), _WORDS[kind]
    return next(
        (f for place, v, shape in parts() if (f := fault(v, shape, place)) is not None), None
    )


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    None: "null",
    list: "a list",
    dict: "a table of keys and values",
}


def _is_plain(value: Any, shape: Any) -> bool:
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    if shape is float:
        return _is_plain(value, int) or (isinstance(value, float) and math.isfinite(value))
    if shape is str:
        return isinstance(value, str) and (
            value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)
        )
    return value is None if shape in (None, type(None)) else isinstance(value, shape)


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value):,}"
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:76]} ..."
