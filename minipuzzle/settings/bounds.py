"""Whether a value may stand in a setting: its type, its bounds, its choices. No torch."""

from __future__ import annotations

import difflib
import typing
from dataclasses import fields
from typing import Any, Literal

from minipuzzle.errors import UserError
from minipuzzle.settings.declare import Setting, hints_of

SEEDS = (0, 2**63 - 1)
BATCHES = (1, 65_536)
LENGTHS = (2, 2**24)
TOKENS = (1, 10**16)
"""Of a run: the largest so far saw some 10**13."""
FASTEST = 1e30
"""A learning rate is at most a number: one that ruins a model is for training to find."""


def settle(settings: Any) -> None:
    """Make the values of a settings object what they are declared to be, and check them: texts are
    parsed, lists become tuples. For ``__post_init__``.

    Raises: UserError for a value of another type, a number out of bounds, or an unknown choice.
    """
    kind: Any = type(settings)
    hints = hints_of(kind)
    for each in fields(settings):
        said: Setting | None = each.metadata.get("setting")
        if said is None:
            continue
        held = getattr(settings, each.name)
        value = _parsed(held, said, hints[each.name])
        if value is not held:
            object.__setattr__(settings, each.name, value)
        _check(said.name or f"{settings.SECTION}.{each.name}", value, said, hints[each.name])


def check(name: str, value: object, least: float, most: float) -> None:
    """Raises: UserError for a number that is not from ``least`` to ``most``, for NaN, for another
    kind of value, and for a fraction where both bounds are ``int``.
    """
    whole = isinstance(least, int) and isinstance(most, int)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if number and least <= value <= most:  # type: ignore[operator]
        return
    raise UserError(
        f"{name} is out of bounds.",
        got=_shown(value),
        allowed=f"a {'whole ' if whole else ''}number from {_shown(least)} to {_shown(most)}",
        next=f"Change {name}.",
    )


def _parsed(value: Any, said: Setting, hint: Any) -> Any:
    if isinstance(value, str) and said.parse is not None:
        return said.parse(value)
    if typing.get_origin(hint) is tuple:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return value


def _check(name: str, value: Any, said: Setting, hint: Any) -> None:
    if value is None and type(None) in typing.get_args(hint):
        return
    if said.within is not None:
        for each in value if isinstance(value, tuple) else (value,):
            check(name, each, *said.within)
        return
    if typing.get_origin(hint) is Literal:
        _check_choice(name, value, typing.get_args(hint))
        return
    wanted: Any = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    held = value if isinstance(value, tuple) else (value,)
    if wanted in (str, bool) and not all(isinstance(each, wanted) for each in held):
        raise UserError(
            f"{name} has a value of the wrong kind.",
            got=_shown(value),
            allowed="a text" if wanted is str else "true or false",
            next=f"Change {name}.",
        )


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.0)
    raise UserError(
        f"{name} has a value that is not known.",
        got=_shown(value),
        allowed=" or ".join(map(repr, allowed)),
        next=f"Did you mean {near[0]!r}?",
    )


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"  # which Python may refuse to print
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
