"""A checkpoint whose matrices compressed-tensors stores (``minipuzzle.checkpoint.coding``).

Which weights are matrices the kinds say: projections and stacks of experts. Head, embeddings,
routers, convolutions, norms and the recurrence's vectors stay whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.cached import check_caching, scale_bytes, scale_names
from minipuzzle.checkpoint.coding import (
    cache_scale,
    cache_scheme,
    encode,
    joined,
    scaled,
    scheme,
    shares_top,
)
from minipuzzle.checkpoint.heads import HEAD
from minipuzzle.checkpoint.planned import WEIGHT, Piece, check_groups, planned_bytes, split
from minipuzzle.families import copied, names_of
from minipuzzle.memory.formats import Format, Pair

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MIXED = "mixed-precision"
"""What compressed-tensors calls the format of a file that has several."""


class Encoder:
    """Gives a matrix's tensors in its format, and what config.json says of them."""

    def __init__(
        self, checkpoint: Checkpoint, formats: Format | Sequence[Pair], *, cache: bool = False
    ) -> None:
        """``formats[i]`` are those of block i, None to leave matrices as they are; one format is
        that of all. ``cache``: with scales for keys and values in FP8.
        """
        if isinstance(formats, Format):
            formats = [(formats, formats)] * len(checkpoint.architecture.blocks)
        self.pieces = split(checkpoint.family, checkpoint.architecture, formats)
        check_groups(self.pieces)
        self.matrices = [piece for piece in self.pieces if piece.format is not None]
        used = dict.fromkeys(piece.format for piece in self.pieces if piece.matrix)
        self._formats = [format for format in used if format is not None]
        self._uniform = len(used) == 1
        self._wanted = {piece.name: piece for piece in self.matrices}
        self._pieces: dict[str, list[Piece]] = {}
        for piece in self.matrices:
            self._pieces.setdefault(piece.planned.name, []).append(piece)
        self._checkpoint = checkpoint
        self._caching = check_caching(self.pieces, checkpoint.architecture) if cache else {}
        self._schemes = [scheme(format) for format in self._formats]
        self._tops: dict[str, Tensor] = {}
        self.inputs: Mapping[str, Tensor] = {}
        """By the canonical name of a matrix the largest magnitude [1] of what it reads, where its
        format has a scale for it (``inputs.largest_inputs``).
        """
        self.cached: Mapping[str, Tensor] = {}
        """Those of keys and values, for their scales (``inputs.largest_cached``)."""
        self.meant: dict[str, Tensor] = {}
        """By the file's name of a matrix, the weights that its codes are to mean where these are
        not the nearest ones; scales are those of the weights that it has.
        """

    def held_dtype(self, name: str) -> torch.dtype:
        """Of the checkpoint's tensor of that canonical name."""
        return self._checkpoint.held_dtype(name)

    @property
    def names(self) -> list[str]:
        """The canonical names of the matrices, or stacks of them, that are quantised."""
        return list(self._pieces)

    def parts(self, name: str, value: Tensor) -> list[tuple[Piece, Tensor]]:
        """The file's matrices [rows, columns] of a tensor, in its order; views of ``value``."""
        pieces = self._pieces[name]
        rows = value.flatten(0, -2).split([piece.shape[0] for piece in pieces])
        return list(zip(pieces, rows, strict=True))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors of the file to be."""

        def width(name: str) -> int:
            return self.held_dtype(name).itemsize

        weights = planned_bytes(self.pieces, width) + scale_bytes(self._caching, width)
        return self._checkpoint.copied_bytes + weights

    def config(self) -> dict[str, Any]:
        """config.json's quantization_config, as llm-compressor writes it: one group for a format,
        which names its layers where there are several, or where some stay as they are.
        """
        from compressed_tensors import __version__
        from compressed_tensors.quantization import QuantizationConfig

        groups = {}
        for number, (format, found) in enumerate(zip(self._formats, self._schemes, strict=True)):
            targets = ["Linear"] if self._uniform else self._targets(format)
            groups[f"group_{number}"] = found.model_copy(update={"targets": targets})
        packings = {format.packing for format in self._formats}
        said = QuantizationConfig(
            config_groups=groups,
            format=packings.pop() if len(packings) == 1 else MIXED,
            quantization_status="compressed",
            kv_cache_scheme=cache_scheme() if self._caching else None,
            ignore=list(self._ignored()),
        ).model_dump(mode="json")
        return said | {"sparsity_config": {}, "transform_config": {}, "version": __version__}

    def _targets(self, format: Format | None) -> list[str]:
        """The layers in a format: expressions over the layer's number and what follows,
        for engines put other words before it.
        """
        layers: dict[str, set[int]] = {}  # what follows the number -> the numbers
        for piece in self.pieces:
            if piece.matrix and piece.format == format:
                match = re.fullmatch(r".*?\.(\d+)\.(.*)", piece.layer)
                assert match is not None, piece.layer
                layers.setdefault(_tail(match[2]), set()).add(int(match[1]))
        tails: dict[tuple[int, ...], list[str]] = {}  # the numbers -> what follows them
        for tail, numbers in layers.items():
            tails.setdefault(tuple(sorted(numbers)), []).append(tail)
        return [
            f"re:.*\\.({'|'.join(map(str, numbers))})\\.({'|'.join(sorted(found))})$"
            for numbers, found in sorted(tails.items())
        ]

    def _ignored(self) -> Iterator[str]:
        """The head, and linear layers that stay whole: by their names without the layer's number,
        for engines put other words before it; and those that a search left whole.
        """
        architecture = self._checkpoint.architecture
        names = self._checkpoint.family.names(replace(architecture, tied_head=False))
        yield names_of(names[HEAD][0])[0].removesuffix(WEIGHT)
        tails = {
            re.sub(r"^.*?\.\d+\.", "", piece.layer)
            for piece in self.pieces
            if piece.planned.block is not None and len(piece.shape) == 2 and not piece.matrix
        }
        yield from (f"re:.*\\.{re.escape(tail)}$" for tail in sorted(tails))
        yield from self._targets(None)
        if architecture.mtp:
            yield "re:.*mtp.*"
        for prefix in copied(self._checkpoint.family):  # "model.visual."
            yield f"re:.*{prefix.split('.')[-2]}.*"

    def __call__(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """What the file holds of its tensor ``name``: the format's tensors, or itself."""
        piece = self._wanted.get(name)
        if piece is None or piece.format is None:
            return {name: value}
        own = (self._top(piece), self._read(piece), self.meant.get(name))
        made = encode(piece.format, value, *own)
        layer = name.removesuffix("weight")
        return {layer + part: tensor for part, tensor in made.items()}

    def beside(self) -> dict[str, Tensor]:
        """The scales [1] of keys and values, by the file's names, where it has them."""
        found = {}
        for index, piece in self._caching.items():
            dtype = self.held_dtype(piece.planned.name)
            for what, name in scale_names(piece).items():
                found[name] = cache_scale(self.cached[f"blocks.{index}.{what}"]).to(dtype)
        return found

    def rounded(self, name: str, value: Tensor) -> Tensor:
        """A matrix [rows, columns] as the codes of the file mean it, in its dtype."""
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize

        piece = self._wanted[name]
        assert piece.format is not None
        state = scaled(piece.format, value, self._top(piece), self._read(piece))
        meant: Tensor = fake_quantize(
            state["weight"],
            state["weight_scale"],
            None,
            scheme(piece.format).weights,
            global_scale=state.get("weight_global_scale"),
        )
        return meant

    def states(self, name: str) -> Iterator[dict[str, Tensor]]:
        """The checkpoint's weights of each of a tensor's ``parts``, and their scales."""
        for piece, value in self.parts(name, self._checkpoint.tensor(name)):
            assert piece.format is not None
            yield scaled(piece.format, value, self._top(piece), self._read(piece))

    def measure(self, tensor: Callable[[str], Tensor]) -> None:
        """From now on take what matrices share from these weights, by canonical name, in place of
        the checkpoint's.
        """
        self._tops = dict(self._largest(tensor))

    def _read(self, piece: Piece) -> Tensor | None:
        """The largest magnitude [1] of what a matrix reads, where its format has a scale for it."""
        measured = piece.format is not None and piece.format.one
        return self.inputs[piece.planned.name] if measured else None

    def _top(self, piece: Piece) -> Tensor | None:
        """The largest magnitude [1] of a matrix and of those that engines join to it, where its
        format has a scale for these.
        """
        if piece.format is None or not shares_top(piece.format):
            return None
        if not self._tops:
            self.measure(self._checkpoint.tensor)
        found = [self._tops.get(layer) for layer in joined(piece.layer)]
        return max((top for top in found if top is not None), key=float)

    def _largest(self, tensor: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """(layer, the largest magnitude of its weight), of all that may share a scale."""
        for name, pieces in self._pieces.items():
            format = pieces[0].format
            if format is not None and shares_top(format):
                for piece, part in self.parts(name, tensor(name)):
                    yield piece.layer, part.abs().max().reshape(1)


def _tail(text: str) -> str:
    """What follows a layer's number as an expression; experts of a block are in one format."""
    return "\\.".join(r"\d+" if part.isdecimal() else re.escape(part) for part in text.split("."))


def coded(formats: Collection[Pair]) -> bool:
    """Whether any block is quantised."""
    return any(format is not None for pair in formats for format in pair)
