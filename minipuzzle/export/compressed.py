"""Matrices as compressed-tensors stores them: its scales, codes and packing, by calls to it.

Which weights are matrices the kinds say: projections and stacks of experts. Head, embeddings,
routers, convolutions, norms and the recurrence's vectors stay whole. Source: compressed-tensors
0.20; llm-compressor 0.14 for what it shares between matrices that engines join
(observers/helpers.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.heads import HEAD
from minipuzzle.errors import UserError
from minipuzzle.export.planned import WEIGHT, Piece, check_groups, planned_bytes, split
from minipuzzle.families import copied, names_of
from minipuzzle.memory.formats import Format

if TYPE_CHECKING:
    import torch
    from torch import Tensor

JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Layers of one input, as files name them, that engines join to one product: they share NVFP4's
scale of the whole matrix.
"""


class Encoder:
    """Gives a matrix's tensors in ``format``, and what config.json says of them."""

    def __init__(
        self, checkpoint: Checkpoint, format: Format, inputs: Mapping[str, Tensor] | None = None
    ) -> None:
        """``inputs``: by the canonical name of a matrix the largest magnitude [1] of what it reads,
        where the format has a scale for it.
        """
        self.matrices, self.others = split(checkpoint.family, checkpoint.architecture)
        check_groups(self.matrices, format)
        self._inputs = inputs or {}
        self.format = format
        self._wanted = {piece.name: piece for piece in self.matrices}
        self._pieces: dict[str, list[Piece]] = {}
        for piece in self.matrices:
            self._pieces.setdefault(piece.planned.name, []).append(piece)
        self._checkpoint = checkpoint
        self._scheme, self._compressor = _scheme(format)
        self._tops: dict[str, Tensor] = {}

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
        checkpoint = self._checkpoint
        return checkpoint.copied_bytes + planned_bytes(
            self.matrices, self.others, self.format, lambda n: checkpoint.held_dtype(n).itemsize
        )

    def config(self) -> dict[str, Any]:
        """config.json's quantization_config, as llm-compressor writes it."""
        from compressed_tensors import __version__
        from compressed_tensors.quantization import QuantizationConfig

        said = QuantizationConfig(
            config_groups={"group_0": self._scheme},
            format=self.format.packing,
            quantization_status="compressed",
            ignore=list(self._ignored()),
        ).model_dump(mode="json")
        return said | {"sparsity_config": {}, "transform_config": {}, "version": __version__}

    def _ignored(self) -> Iterator[str]:
        """The head, and linear layers that stay whole: by their names without the layer's number,
        for engines put other words before it.
        """
        architecture = self._checkpoint.architecture
        names = self._checkpoint.family.names(replace(architecture, tied_head=False))
        yield names_of(names[HEAD][0])[0].removesuffix(WEIGHT)
        tails = {
            re.sub(r"^.*?\.\d+\.", "", piece.layer)
            for piece in self.others
            if piece.planned.block is not None and len(piece.shape) == 2
        }
        yield from (f"re:.*\\.{re.escape(tail)}$" for tail in sorted(tails))
        if architecture.mtp:
            yield "re:.*mtp.*"
        for prefix in copied(self._checkpoint.family):  # "model.visual."
            yield f"re:.*{prefix.split('.')[-2]}.*"

    def __call__(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """What the file holds of its tensor ``name``: the format's tensors, or itself."""
        if name not in self._wanted:
            return {name: value}
        made = self._compressor.compress(self._state(name, value), self._scheme)
        layer = name.removesuffix("weight")
        return {layer + part: tensor.detach().contiguous() for part, tensor in made.items()}

    def rounded(self, name: str, value: Tensor) -> Tensor:
        """A matrix [rows, columns] as the codes of the file mean it, in its dtype."""
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize

        state = self._state(name, value)
        meant: Tensor = fake_quantize(
            state["weight"],
            state["weight_scale"],
            None,
            self._scheme.weights,
            global_scale=state.get("weight_global_scale"),
        )
        return meant

    def measure(self, tensor: Callable[[str], Tensor]) -> None:
        """From now on take what matrices share from these weights, by canonical name, in place of
        the checkpoint's.
        """
        if self._scheme.weights.strategy == "tensor_group":
            self._tops = dict(self._largest(tensor))

    def _state(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """A matrix and its scales, by compressed-tensors' names."""
        from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

        # [rows, groups], or [1] of a whole matrix: the least and the largest that share a scale
        if self.format.one:
            grouped = value.reshape(1, -1)
        else:
            grouped = value.unflatten(-1, (-1, self.format.group or value.shape[1]))
        least, most = grouped.amin(-1), grouped.amax(-1)
        state = {"weight": value.contiguous()}
        if self.format.one:
            top = self._inputs[self._wanted[name].planned.name]
            scale, _ = calculate_qparams(-top, top, self._scheme.input_activations)
            state["input_scale"] = scale.to(value.dtype)
        if self._scheme.weights.strategy == "tensor_group":
            top = self._shared_top(name)
            state["weight_global_scale"] = generate_gparam(-top, top)
        state["weight_scale"], _ = calculate_qparams(
            least, most, self._scheme.weights, global_scale=state.get("weight_global_scale")
        )
        return state

    def _shared_top(self, name: str) -> Tensor:
        """The largest magnitude [1] of a matrix and of those that engines join to it."""
        if not self._tops:
            self.measure(self._checkpoint.tensor)
        layer = name.removesuffix(WEIGHT)
        parent, _, own = layer.rpartition(".")
        group = next((group for group in JOINED if own in group), (own,))
        found = [self._tops.get(f"{parent}.{tail}") for tail in group]
        tops = [top for top in found if top is not None]
        return max(tops, key=float)

    def _largest(self, tensor: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """(layer, the largest magnitude of its weight), over all of the checkpoint."""
        for name in self.names:
            for piece, part in self.parts(name, tensor(name)):
                yield piece.layer, part.abs().max().reshape(1)


def _scheme(format: Format) -> tuple[Any, Any]:
    """compressed-tensors' (scheme, compressor). Raises: UserError where it is not installed."""
    try:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import preset_name_to_scheme
    except ImportError as error:
        raise UserError(
            "Quantised checkpoints are written by compressed-tensors, which is not installed.",
            got=error,
            allowed="compressed-tensors 0.15 or later",
            next='pip install "minipuzzle[quant]"',
        ) from error
    scheme = preset_name_to_scheme(format.scheme, ["Linear"])
    if scheme.weights.strategy == "group":
        scheme.weights.group_size = format.group
    scheme.format = format.packing
    return scheme, BaseCompressor.get_value_from_registry(format.packing)
