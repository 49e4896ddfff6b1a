"""Numbers as people read them."""

from __future__ import annotations

GIB, MIB = 2**30, 2**20


def count(value: float) -> str:
    """5523552 -> "5.52 M"."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def both(total: int, active: int | None, word: str = "") -> tuple[str, ...]:
    """How many parameters there are, and where these are not all how many one token is computed
    with, the latter with a word after it: ("31.58 B", "3.58 B active").
    """
    return (count(total),) if active is None else (count(total), f"{count(active)}{word}")


def sized(total: int, active: int | None) -> str:
    """The same in full: "31,577,937,344 parameters (3,580,073,408 active)"."""
    rest = "" if active is None else f" ({active:,} active)"
    return f"{total:,} parameters{rest}"


def bytes_(value: float) -> str:
    """Bytes in GiB, below one GiB in MiB."""
    return f"{value / GIB:.2f} GiB" if value >= GIB else f"{value / MIB:.2f} MiB"


def percent(part: float, whole: float) -> str:
    """The share, "83.0 %"."""
    return f"{100 * part / whole:.1f} %"
