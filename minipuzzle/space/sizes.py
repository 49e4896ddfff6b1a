"""Which sizes of an axis a search tries, and which it was asked for and cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from minipuzzle.arch import Architecture
from minipuzzle.arch.narrow import offered
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS, Block, Width
from minipuzzle.kinds.rounding import MULTIPLE, SMALL_MULTIPLE, rounded_sizes
from minipuzzle.settings import SearchSettings

HIDDEN_STEPS = 16
"""Hidden sizes are sixteenths of the parent's (4096: steps of 256, as in arXiv:2504.11409), rounded
for matrix units.
"""
HIDDEN = "hidden"


def first_blocks(parent: Architecture) -> dict[str, Block]:
    """The first block of each kind that the parent has, in the order in which kinds are declared:
    that of the grid's columns.
    """
    return {name: parent.blocks[parent.indices(name)[0]] for name in KINDS if name in parent.kinds}


def tried(block: Block, settings: SearchSettings) -> tuple[Width, ...]:
    """The widths of a block that a space is about: not those that only ``vary`` would name."""
    named = settings.varied
    return tuple(w for w in block.searched if w.usual or w.axis in named)


def thinned(
    sizes: Mapping[str, tuple[int, ...]], named: Collection[str], most: int
) -> dict[str, tuple[int, ...]]:
    """Every other size of the axis that has most, and so on, until there are at most ``most``
    combinations; the smallest and the whole stay, and all sizes of axes that were ``named``.
    """
    found = dict(sizes)
    while prod(map(len, found.values())) > most:
        free = [axis for axis in found if len(found[axis]) > 2 and axis not in named]
        if not free:
            break
        axis = max(free, key=lambda name: len(found[name]))
        found[axis] = (*found[axis][:-1:2], found[axis][-1])
    return found


def switched(width: Width, settings: SearchSettings) -> bool:
    """Whether a search may shrink this axis: it needs no switch, its switch is on, or it is
    named.
    """
    if not width.switch or width.axis in settings.varied:
        return True
    return width.usual and bool(getattr(settings, width.switch))


def axis_sizes(
    parent: Architecture, block: Block, width: Width, share: float, settings: SearchSettings
) -> tuple[int, ...]:
    """The sizes of an axis to try, ascending, the whole last: those that were named, else those
    from ``share`` of the whole on.
    """
    whole, named = block.sizes[width.axis], settings.varied.get(width.axis)
    if not switched(width, settings):
        return (whole,)
    own = offered(block, width, parent.rules, share, settings.multiple)
    if named is None:
        return own
    return named.of(whole, own, offered(block, width, parent.rules, 0.0, settings.multiple))


def hidden_sizes(parent: Architecture, share: float, settings: SearchSettings) -> tuple[int, ...]:
    """The hidden sizes to try, ascending, the parent's last: those that were named, else those from
    ``share`` of the parent's on; of both those that its family's files can say.
    """
    if not settings.tries_hidden:
        return (parent.hidden,)
    named = settings.varied.get(HIDDEN)
    sizes = own = _sixteenths(parent, share)
    if named is not None:
        sizes = named.of(parent.hidden, own, _sixteenths(parent, 0.0))
    return tuple(size for size in sizes if parent.rules.allows_hidden(parent.blocks, size))


def _sixteenths(parent: Architecture, share: float) -> tuple[int, ...]:
    multiple = MULTIPLE if parent.hidden >= HIDDEN_STEPS * MULTIPLE else SMALL_MULTIPLE
    return rounded_sizes(parent.hidden, share, multiple, HIDDEN_STEPS)


def left_whole(parent: Architecture, settings: SearchSettings) -> list[Width]:
    """The widths of the grid that stay whole because no setting names them."""
    blocks = first_blocks(parent).values()
    return [w for b in blocks for w in b.searched if w.in_grid and not switched(w, settings)]


def switches_left(parent: Architecture, settings: SearchSettings) -> list[str]:
    """The settings that would have the search try smaller sizes of what stays whole."""
    dense = parent.active_if_fewer is None
    found = [
        width.switch if width.usual else f"vary {width.axis}"
        for width in left_whole(parent, settings)
        if width.usual or not dense
    ]
    if not settings.tries_hidden:
        found.append("hidden_size")
    return list(dict.fromkeys(found))


def contradicted(
    block: Block, sizes: Mapping[str, tuple[int, ...]], axis: str
) -> dict[int, tuple[str, str]]:
    """Sizes of an axis that no sizes of the others go with, each with a fault of the block: what
    holds neither with their smallest nor with their largest sizes holds with none.
    """
    others = [name for name in sizes if name != axis]
    ends = [tuple(dict.fromkeys((sizes[name][0], sizes[name][-1]))) for name in others]
    found = {}
    for size in sizes[axis]:
        blocks = (
            block.resized(**{axis: size}, **dict(zip(others, chosen, strict=True)))
            for chosen in product(*ends)
        )
        checked = [one.fault() for one in blocks]
        faults = [fault for fault in checked if fault is not None]
        if len(faults) == len(checked):
            found[size] = faults[0]
    return found


def check_asked(parent: Architecture, settings: SearchSettings) -> None:
    """Raises: UserError for an option that asks for what the parent's family can't write, or names
    axes and sizes that the parent has not.
    """
    widths = [(b, width) for b in first_blocks(parent).values() for width in b.searched]
    _check_named(parent, widths, settings)
    _check_together(parent, settings)
    refused = [name for pair in widths for name in _refused(parent, *pair, settings)]
    if settings.tries_hidden and len(hidden_sizes(parent, 0.0, settings)) == 1:
        refused.append("hidden_size" if settings.hidden_size else "vary hidden")
    for name in refused:
        option = f"search.{name}"
        raise UserError(
            f"{option} asks for what a checkpoint of this family can't say.",
            got=option,
            allowed="; ".join(parent.rules.sentences()),
            next=f"Search without {option}.",
        )


def fitted(settings: SearchSettings, parent: Architecture) -> SearchSettings:
    """The same for a student of the model that they were written for: of ``vary`` what it still can
    have, no axis that it has lost and no size above its own.
    """
    widths = {w.axis: (b, w) for b in first_blocks(parent).values() for w in b.searched}
    texts = []
    for axis, named in settings.varied.items():
        if axis not in (*widths, HIDDEN):
            continue
        block, width = widths.get(axis, (None, None))
        whole = parent.hidden if block is None else block.sizes[axis]
        step = 1 if block is None or width is None else width.step(block)
        good = list(range(step, whole + 1, step))
        if width is not None and width.candidates == "divisors":
            good = [size for size in good if whole % size == 0]
        if named.span is not None:
            sizes = [n for n in good if named.span[0] <= n <= named.span[1]]
            every = f"/{named.step}" if named.step else ""
            texts += [f"{axis}={sizes[0]}..{sizes[-1]}{every}"] if sizes else []
        elif named.sizes:
            sizes = [n for n in good if n in named.sizes]
            texts += [f"{axis}={','.join(map(str, sizes))}"] if sizes else []
        else:
            texts.append(axis)
    return replace(settings, vary=tuple(texts))


def _check_named(
    parent: Architecture, widths: Sequence[tuple[Block, Width]], settings: SearchSettings
) -> None:
    known = {width.axis: (block, width) for block, width in widths}
    for axis, named in settings.varied.items():
        if axis != HIDDEN and axis not in known:
            raise UserError(
                "This model has no such axis to vary.",
                got=f"search.vary {axis}",
                allowed=", ".join([*known, HIDDEN]),
                next="Name one of those.",
            )
        block, width = known.get(axis, (None, None))
        whole = parent.hidden if block is None else block.sizes[axis]
        step = 1 if block is None or width is None else width.step(block)
        sizes = (*named.sizes, *(named.span or ()))
        wrong = [size for size in sizes if size > whole or size % step]
        if width is not None and width.candidates == "divisors":
            wrong += [size for size in sizes if whole % size]
        if wrong or named.step % step:
            multiples = f"multiples of {step} up to " if step > 1 else "at most "
            raise UserError(
                f"{axis} cannot have these sizes.",
                got=", ".join(map(str, wrong)) or f"steps of {named.step}",
                allowed=f"{multiples}{whole}, the model's own",
                next=f"Change search.vary {axis}.",
            )


def _check_together(parent: Architecture, settings: SearchSettings) -> None:
    for block in first_blocks(parent).values():
        sizes = {
            width.axis: axis_sizes(parent, block, width, 0.0, settings)
            for width in tried(block, settings)
        }
        for axis in [name for name in settings.varied if name in sizes]:
            named = settings.varied[axis].sizes
            wrong = contradicted(block, sizes, axis)
            for size in [size for size in named if size in wrong]:
                said, allowed = wrong[size]
                raise UserError(
                    f"No sizes of other axes that are tried go with {axis}={size}.",
                    got=f"search.vary {axis}={','.join(map(str, named))}: {said}",
                    allowed=allowed,
                    next=f"Take {size} out, or let search.vary name other sizes beside it.",
                )


def _refused(
    parent: Architecture, block: Block, width: Width, settings: SearchSettings
) -> list[str]:
    """The settings about an axis that the family's rules leave without effect."""
    rules, found = parent.rules, []
    if width.switch and switched(width, settings):
        sizes = offered(block, width, rules, 0.0, settings.multiple)
        free = width.candidate_sizes(block, 0.0, settings.multiple)
        if width.axis in rules.fixed or len(sizes) == 1 < len(free):
            named = width.axis in settings.varied
            found.append(f"vary {width.axis}" if named else width.switch)
    if width.per_block is not None and not rules.per_block_sizes:
        name, value = width.per_block
        if value and getattr(settings, name):
            found.append(name)
    return found
