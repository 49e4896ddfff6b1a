"""Tensors that files hold in pieces, such as one an expert, or in another order: all are there,
once, and fit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from math import prod
from pathlib import Path

from minipuzzle.arch import Tensor
from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.quantised import CODES, Fp8
from minipuzzle.checkpoint.scales import scale_of
from minipuzzle.checkpoint.stored import Stored
from minipuzzle.errors import UserError
from minipuzzle.families import Name, Parts, names_of

RESTORE = "config.json and weights disagree: restore both from one place."


def whole(name: Name, there: Collection[str]) -> bool:
    """Whether all of a tensor's pieces are there."""
    return all(piece in there for piece in names_of(name))


def check_pieces(
    path: Path, accepted: Sequence[Name], claimed: Name | None, there: Collection[str]
) -> None:
    """``claimed`` is the alternative of ``accepted`` that is whole, if one is.

    Raises: UserError where none is and one is in part, and where pieces of another lie beside it.
    """
    parts = [name for name in accepted if isinstance(name, Parts) and name != claimed]
    counts = {name: sum(piece in there for piece in name.names) for name in parts}
    most = max(parts, key=lambda name: counts[name], default=None)
    if most is None or counts[most] in (0, len(most.names)):  # whole ones: there twice
        return
    found = f"{counts[most]} of {len(most.names)} tensors {most}"
    if claimed is not None:
        raise UserError(
            f"Tensor {names_of(claimed)[0]} is in {path}, and in pieces too, some of them.",
            got=found,
            allowed=f"{claimed} alone, or all of these pieces alone",
            next="The files are of two checkpoints: copy or download all of them again.",
        )
    first = next(piece for piece in most.names if piece not in there)
    raise UserError(
        f"Tensor {first} is missing from {path}, the first of"
        f" {len(most.names) - counts[most]} pieces of a larger one.",
        got=found,
        allowed="all of them" + (f", of {len(most.pieces)} experts" if most.stacked else ""),
        next="Copy or download the files again. Were experts taken out, config.json must count"
        " those that are left, from 0 on."
        if most.stacked
        else RESTORE,
    )


def piece_shapes(tensor: Tensor, name: Name) -> list[tuple[int, ...]]:
    """The shape of each of a file's tensors that hold ``tensor`` under ``name``.

    Rows that are joined are the segments of that dimension (``kinds.axes``), in each piece as many
    as it is named.
    """
    if isinstance(name, str):
        return [tensor.shape]
    dim = 1 if name.stacked else 0
    segments = _segments(tensor, dim)
    rows = [sum(segments)]
    if len(name.pieces[0]) > 1:
        pairs = zip(name.pieces[0], segments, strict=True)
        rows = [sum(count for _, count in own) for _, own in groupby(pairs, lambda pair: pair[0])]
    shapes = [(count, *tensor.shape[dim + 1 :]) for count in rows]
    return [shape for _ in name.pieces for shape in shapes]


def interleaved_rows(tensor: Tensor) -> list[range]:
    """The rows of a file that hold ``tensor`` interleaved, in our order: of each segment, for each
    index of its first axis, those of all others.
    """
    segments, count = _segments(tensor, 0), tensor.sizes[tensor.weight.dims[0][0][0]]
    each, found, offset = [rows // count for rows in segments], [], 0
    for rows in each:
        starts = (index * sum(each) + offset for index in range(count))
        found += [range(start, start + rows) for start in starts]
        offset += rows
    return found


def _segments(tensor: Tensor, dim: int) -> list[int]:
    """The rows of each segment of a dimension."""
    return [prod(tensor.sizes[axis] for axis in axes) for axes in tensor.weight.dims[dim]]


def placed(
    tensor: Tensor, name: Name, entries: dict[str, Entry], fp8: Fp8 | None = None, plain: str = ""
) -> Stored:
    """Where ``tensor`` lies, which the files hold under ``name``, with the scales of ``fp8`` where
    they hold codes, which are given in the dtype ``plain``.

    Raises: UserError for a piece of another shape, for pieces of different dtypes, and for codes
    without scales.
    """
    names = names_of(name)
    found = tuple(entries[piece] for piece in names)
    shapes = piece_shapes(tensor, name)
    if isinstance(name, Parts) and not name.stacked:
        # where rows that are joined are split does not matter: transformers may save equal parts
        whole = sum(prod(entry.shape[:1]) for entry in found)
        if all((whole, *entry.shape[1:]) == tensor.shape for entry in found):
            shapes = [entry.shape for entry in found]
    for piece, entry, shape in zip(names, found, shapes, strict=True):
        if entry.shape != shape:
            raise UserError(
                f"Tensor {piece} has the wrong shape.", got=entry.shape, allowed=shape, next=RESTORE
            )
        if entry.dtype != found[0].dtype:
            raise UserError(
                f"Tensor {piece} has another dtype than {names[0]}, which is a piece of the same"
                " tensor.",
                got=f"{entry.dtype} and {found[0].dtype}",
                allowed="one dtype",
                next="Save the checkpoint again in one dtype.",
            )
    spans: tuple[tuple[int, int, int], ...] = ()
    if not isinstance(name, str) and name.interleaved:
        row = found[0].nbytes // tensor.shape[0]
        runs = interleaved_rows(tensor)
        spans = tuple((0, rows.start * row, len(rows) * row) for rows in runs)
    if fp8 is None or found[0].dtype != CODES:
        return Stored(name, tensor.shape, found, spans)
    scales = tuple(scale_of(piece, entries, fp8) for piece in names)
    return Stored(name, tensor.shape, found, spans, scales, plain)
