"""The least and the greatest of every number that a person sets. No torch."""

from __future__ import annotations

from typing import Any

from minipuzzle.errors import UserError

SEEDS = (0, 2**63 - 1)
BATCHES = (1, 65_536)
TOKENS = (1, 10**16)
"""Of a run: the largest so far saw some 10**13."""
FASTEST = 1e30
"""A learning rate is at most a number: one that ruins a model is for training to find."""


def within(settings: Any, **bounds: tuple[float, float]) -> None:
    """Check fields of ``settings`` against (least, greatest), both allowed: whole numbers where
    both bounds are ``int``.

    Raises: UserError for a number outside, NaN, or another kind of value.
    """
    for name, (least, most) in bounds.items():
        check(name, getattr(settings, name), least, most)


def check(name: str, value: object, least: float, most: float) -> None:
    """As ``within``, for one value."""
    whole = isinstance(least, int) and isinstance(most, int)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if number and least <= value <= most:  # type: ignore[operator]
        return
    option = f"--{name.replace('_', '-')}"
    raise UserError(
        f"{name} is out of bounds.",
        got=_shown(value),
        allowed=f"a {'whole ' if whole else ''}number from {_shown(least)} to {_shown(most)}",
        next=f"Change {option}, or {name} in the recipe or settings.",
    )


def require(holds: bool, got: str, allowed: str) -> None:
    if not holds:
        raise UserError(
            "These settings cannot run.",
            got=got,
            allowed=allowed,
            next="Change the option or recipe.",
        )


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"  # which Python may refuse to print
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
