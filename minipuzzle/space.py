"""Room 3: the choices. MiniPuzzle's are global: how many blocks of each kind, one FFN width, one
number of Mamba heads, one hidden size.

Source: arXiv:2504.03624; the paper's grid of widths is 75 % to 100 % of the parent's in steps of
1/32 (24576..32768 by 1024). The ranges of the counts are not published; ``LEVELS`` is ours
(docs/decisions/bounds-of-the-grid.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from minipuzzle.arch import Architecture, Rules
from minipuzzle.errors import UserError
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.settings import SearchSettings

WIDTH_STEPS = 32
HIDDEN_STEPS, HIDDEN_MULTIPLE, SMALL_MULTIPLE = 16, 64, 8
"""Hidden sizes are sixteenths of the parent's (4096: steps of 256, as in arXiv:2504.11409), rounded
for matrix units.
"""
LEAST = re.compile(r"^(attention|others|width|hidden)=([0-9]+(?:\.[0-9]+)?)%$")


@dataclass(frozen=True, kw_only=True, order=True)
class Shape:
    """A point of the grid: counts of blocks by kind, each block's FFN width and Mamba heads, the
    hidden size.
    """

    attention: int
    mlp: int
    mamba: int
    intermediate: int
    heads: int
    hidden: int


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Inclusive ranges of counts, and the widths, head counts and hidden sizes to try, ascending.

    ``paired``: each attention or Mamba block has its feed-forward, so there are as many of these as
    of both others.
    """

    attention: tuple[int, int]
    mlp: tuple[int, int]
    mamba: tuple[int, int]
    intermediate: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    paired: bool = False

    @property
    def points(self) -> int:
        """The number of grid points."""
        attention, mlp, mamba = (
            range(low, high + 1) for low, high in (self.attention, self.mlp, self.mamba)
        )
        counts = len(attention) * len(mlp) * len(mamba)
        if self.paired:
            counts = sum(a + m in mlp for a in attention for m in mamba)
        return counts * len(self.intermediate) * len(self.heads) * len(self.hidden)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Level:
    """Least shares of the parent: of its attention blocks, of its Mamba and FFN blocks, of widths
    and heads, of hidden.
    """

    attention: float
    others: float
    width: float
    hidden: float


LEVELS = (
    Level(attention=0.5, others=0.83, width=0.75, hidden=0.75),
    Level(attention=0.5, others=0.5, width=0.5, hidden=0.5),
    Level(attention=0.0, others=0.25, width=0.25, hidden=0.25),
)
"""Tried in order; the first that reaches the budget is the space. The first is for cuts such as 56B
-> 47B.
"""


def levels(least: Sequence[str]) -> tuple[Level, ...]:
    """LEVELS with the shares that ``least`` names ("width=50%") in place of their own.

    Raises: UserError for a name or share that has no meaning.
    """
    own = {}
    for text in least:
        match = LEAST.match(text.strip())
        if match is None or not 0 <= float(match[2]) <= 100:
            raise UserError(
                f"{text!r} does not bound the space.",
                got=text,
                allowed=(
                    "attention=S%, others=S% (Mamba and FFN blocks), width=S% (FFN width and Mamba"
                    " heads), hidden=S%"
                ),
                next="Write for example --min-keep width=50%.",
            )
        own[match[1]] = float(match[2]) / 100
    return tuple(replace(level, **own) for level in LEVELS)


def bounds(
    parent: Architecture,
    level: Level,
    *,
    multiple: int,
    mamba_heads: bool,
    hidden_size: bool = False,
) -> Bounds:
    """The grid of a level. FFN widths are multiples of ``multiple``; heads are equal in each group.

    Mamba heads and the hidden size are narrowed where ``mamba_heads`` and ``hidden_size`` say so.
    """
    ffn, mamba = _one(parent, FeedForward), _one(parent, Mamba2)
    return Bounds(
        attention=_range(parent.count("attention"), level.attention),
        mlp=_range(parent.count("mlp"), level.others),
        mamba=_range(parent.count("mamba"), level.others),
        intermediate=(0,) if ffn is None else _widths(ffn.intermediate, level.width, multiple),
        heads=(
            (0,)
            if mamba is None
            else _heads(mamba, level.width, parent.rules)
            if mamba_heads
            else (mamba.heads,)
        ),
        hidden=_hidden(parent, level.hidden) if hidden_size else (parent.hidden,),
        paired=parent.rules.paired,
    )


def shape_architecture(parent: Architecture, shape: Shape) -> Architecture:
    """An architecture with the shape's counts and sizes (the first blocks of each kind: they cost
    the same).
    """
    left = {"attention": shape.attention, "mlp": shape.mlp, "mamba": shape.mamba}
    blocks: list[Block] = []
    for block in parent.blocks:
        if left[block.kind] == 0:
            continue
        left[block.kind] -= 1
        if isinstance(block, FeedForward):
            block = replace(block, intermediate=shape.intermediate)
        elif isinstance(block, Mamba2):
            block = replace(block, heads=shape.heads)
        blocks.append(block)
    return replace(parent, blocks=tuple(blocks)).at_hidden(shape.hidden)


def check_uniform(parent: Architecture) -> None:
    """Raises: UserError for a parent whose blocks of one kind differ: a grid of global widths has
    no place for it.
    """
    if not parent.homogeneous:
        raise UserError(
            "The grid search wants a parent whose blocks of one kind have the same sizes.",
            got="different sizes",
            allowed="one FFN width, one number of Mamba heads, one kind of attention",
            next="Search on the checkpoint that this one was cut from.",
        )


def check_asked(parent: Architecture, settings: SearchSettings) -> None:
    """Raises: UserError for an option that asks for what the parent's family can't write."""
    mamba, rules = _one(parent, Mamba2), parent.rules
    wrong = {
        "--kv-heads": settings.kv_heads and "kv_heads" in rules.fixed,
        "--per-block-heads": settings.per_block_heads and not rules.per_block_sizes,
        "--hidden-size": settings.hidden_size and len(_hidden(parent, 0.0)) == 1,
        "--mamba-heads": (
            settings.mamba_heads and mamba is not None and len(_heads(mamba, 0.0, rules)) == 1
        ),
    }
    for option, refused in wrong.items():
        if refused:
            raise UserError(
                f"{option} asks for what a checkpoint of this family can't say.",
                got=option,
                allowed="; ".join(rules.sentences()),
                next=f"Search without {option}.",
            )


def _one(parent: Architecture, kind: type[FeedForward] | type[Mamba2] | type[Attention]) -> Any:
    return next((b for b in parent.blocks if isinstance(b, kind)), None)


def _range(count: int, share: float) -> tuple[int, int]:
    return _least(count, share), count


def _hidden(parent: Architecture, share: float) -> tuple[int, ...]:
    multiple = (
        HIDDEN_MULTIPLE if parent.hidden >= HIDDEN_STEPS * HIDDEN_MULTIPLE else SMALL_MULTIPLE
    )
    sizes = _widths(parent.hidden, share, multiple, HIDDEN_STEPS)
    return tuple(size for size in sizes if parent.rules.allows_hidden(parent.blocks, size))


def _widths(width: int, share: float, multiple: int, steps: int = WIDTH_STEPS) -> tuple[int, ...]:
    found = {width}
    for step in range(1, steps):
        rounded = round(width * step / steps / multiple) * multiple
        if max(1, _least(width, share)) <= rounded < width:
            found.add(rounded)
    return tuple(sorted(found))


def _heads(block: Mamba2, share: float, rules: Rules) -> tuple[int, ...]:
    per_group = block.heads // block.groups
    sizes = (k * block.groups for k in range(max(1, _least(per_group, share)), per_group + 1))
    return tuple(size for size in sizes if rules.allows(block.resized(heads=size)))


def _least(count: int, share: float) -> int:
    # 0.07 * 100 is 7.000000000000001, of which the ceiling is 8.
    return ceil(round(count * share, 6))
