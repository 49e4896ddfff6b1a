"""A model that computes with the weights which a quantised file of it would mean, block by block:
what a search measures.

Of a masked block the cut matrices are rounded, as the file of what is cut has them: scales are of
the columns that stay. Activations are as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import EllipsisType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.coding import joined, rounded, shares_top
from minipuzzle.checkpoint.planned import Piece, split
from minipuzzle.kinds import Kept
from minipuzzle.memory.formats import Pair, pair_of
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.hybrid import HybridLM
from minipuzzle.model.masks import meanwhile

EVERYTHING: Kept = {}


class Rounding:
    """Of the blocks of ``checkpoint``, in modules of any dtype on any device: weights are rounded
    from what the checkpoint's dtype holds.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @contextmanager
    def block(self, module: ResidualBlock, index: int, name: str) -> Iterator[None]:
        """Meanwhile block ``index`` computes with its matrices rounded to the format ``name``."""
        with meanwhile(self._values(module, index, pair_of(name), EVERYTHING)):
            yield

    @contextmanager
    def applied(self, model: HybridLM, selection: Selection) -> Iterator[None]:
        """Meanwhile each block that ``selection`` keeps computes with what it keeps of its
        matrices rounded to its format; the caller masks. A second copy of them is held.
        """
        values = []
        for index in selection.kept_blocks:
            values += self.values(cast(ResidualBlock, model.blocks[index]), index, selection)
        with meanwhile(values):
            yield

    def values(
        self, module: ResidualBlock, index: int, selection: Selection
    ) -> list[tuple[Any, str, Any]]:
        """What is to be set meanwhile for block ``index`` alone, for ``masks.meanwhile``."""
        if selection.formats is None:
            return []
        formats = pair_of(selection.formats[index])
        return self._values(module, index, formats, selection.axes(index))

    @torch.no_grad()
    def _values(
        self, module: ResidualBlock, index: int, formats: Pair, kept: Kept
    ) -> list[tuple[Any, str, Any]]:
        """(parameter, "data", what it is rounded to) of each matrix that has a format."""
        block, places, stay = self.checkpoint.architecture.blocks[index], {}, {}
        pieces = self._pieces(index, formats, kept)
        for name in pieces:
            indices = block.weight(name).indices(block.sizes, kept)
            whole = module.get_parameter(name).data
            places[name] = _places(indices, whole.shape, whole.device)
            dtype = self.checkpoint.held_dtype(f"blocks.{index}.{name}")
            stay[name] = whole[places[name]].to(dtype)  # [..., rows, columns]
        rows = {
            name: part.flatten(0, -2).split([piece.shape[0] for piece in pieces[name]])
            for name, part in stay.items()
        }
        tops = {}
        for name, parts in rows.items():
            for piece, part in zip(pieces[name], parts, strict=True):
                if piece.format is not None and shares_top(piece.format):
                    tops[piece.layer] = part.abs().max().reshape(1)
        found: list[tuple[Any, str, Any]] = []
        for name, parts in rows.items():
            made = [
                rounded(piece.format, part, _top(tops, piece))
                for piece, part in zip(pieces[name], parts, strict=True)
                if piece.format is not None
            ]
            parameter = module.get_parameter(name)
            value = parameter.data.clone()
            value[places[name]] = torch.cat(made).view_as(stay[name]).to(value.dtype)
            found.append((parameter, "data", value))
        return found

    def _pieces(self, index: int, formats: Pair, kept: Kept) -> dict[str, list[Piece]]:
        """The file's quantised matrices of what is kept of a block, by the names of its own."""
        parent = self.checkpoint.architecture
        block = parent.blocks[index]
        hidden = len(kept["hidden"]) if "hidden" in kept else parent.hidden
        cut = block.resized(**block.kept_sizes(kept))
        alone = replace(parent.at_hidden(hidden), blocks=(cut,))
        found: dict[str, list[Piece]] = {}
        for piece in split(self.checkpoint.family, alone, [formats]):
            if piece.format is not None:
                found.setdefault(piece.planned.weight.name, []).append(piece)
        return found


def _top(tops: Mapping[str, Tensor], piece: Piece) -> Tensor | None:
    """The largest magnitude [1] of a matrix and of those that engines join to it."""
    found = [tops[layer] for layer in joined(piece.layer) if layer in tops]
    return max(found, key=float) if found else None


def _places(
    indices: Sequence[NDArray[np.int64] | None], shape: Sequence[int], device: torch.device
) -> EllipsisType | tuple[Tensor, ...]:
    """What picks ``indices`` of each dimension (None: all) out of a tensor, together."""
    if all(index is None for index in indices):
        return ...
    found = []
    for dim, (index, size) in enumerate(zip(indices, shape, strict=True)):
        picked = torch.arange(size) if index is None else torch.from_numpy(index)
        form = [1] * len(shape)
        form[dim] = picked.shape[-1]
        if picked.ndim == 2:  # of each index of the first dimension its own
            form[0] = picked.shape[0]
        found.append(picked.reshape(form).to(device))
    return tuple(found)
