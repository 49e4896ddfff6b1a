"""A matrix in 8 or 4 bits as compressed-tensors stores it: scales, codes and packing, by calls to
it, and the weights that these mean.

Source: compressed-tensors 0.20; llm-compressor 0.14 for what it shares between matrices that
engines join (observers/helpers.py).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from minipuzzle.errors import UserError
from minipuzzle.memory.formats import Format

if TYPE_CHECKING:
    from torch import Tensor

JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Layers of one input, as files name them, that engines join to one product: they share NVFP4's
scale of the whole matrix.
"""


def joined(layer: str) -> list[str]:
    """A layer and those beside it that engines join to it."""
    parent, _, own = layer.rpartition(".")
    group = next((group for group in JOINED if own in group), (own,))
    return [f"{parent}.{tail}" for tail in group]


def shares_top(format: Format) -> bool:
    """Whether joined matrices share a scale, which their largest magnitude sets."""
    return bool(scheme(format).weights.strategy == "tensor_group")


def scaled(
    format: Format, weight: Tensor, top: Tensor | None = None, read: Tensor | None = None
) -> dict[str, Tensor]:
    """``weight`` [rows, columns] and its scales, by compressed-tensors' names. ``top`` [1]: the
    largest magnitude of joined matrices, where the format ``shares_top``; ``read`` [1] that of the
    inputs, where it has a scale for them.
    """
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    how = scheme(format)
    # [rows, groups], or [1] of a whole matrix: the least and the largest that share a scale
    if format.one:
        grouped = weight.reshape(1, -1)
    else:
        grouped = weight.unflatten(-1, (-1, format.group or weight.shape[1]))
    least, most = grouped.amin(-1), grouped.amax(-1)
    state = {"weight": weight.contiguous()}
    if read is not None:
        scale, _ = calculate_qparams(-read, read, how.input_activations)
        state["input_scale"] = scale.to(weight.dtype)
    if top is not None:
        state["weight_global_scale"] = generate_gparam(-top, top)
    state["weight_scale"], _ = calculate_qparams(
        least, most, how.weights, global_scale=state.get("weight_global_scale")
    )
    return state


def encode(
    format: Format,
    weight: Tensor,
    top: Tensor | None = None,
    read: Tensor | None = None,
    meant: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a file holds of ``weight``, by the last part of its name; arguments as in ``scaled``.
    ``meant`` [rows, columns]: what codes are to mean under its scales, if not the nearest weights.
    """
    state = scaled(format, weight, top, read)
    if meant is not None:
        state["weight"] = meant
    made: dict[str, Tensor] = _compressor(format).compress(state, scheme(format))
    return {part: tensor.detach().contiguous() for part, tensor in made.items()}


def rounded(format: Format, weight: Tensor, top: Tensor | None = None) -> Tensor:
    """The weights [rows, columns] that ``encode``'s tensors mean, in the dtype of ``weight``."""
    # fake_quantize takes half the time, but of FP32 weights it means others than the file does
    state = encode(format, weight, top)
    result: Tensor = _compressor(format).decompress(state, scheme(format))["weight"]
    return result.to(weight.dtype)


def scheme(format: Format) -> Any:
    """compressed-tensors' scheme. Raises: UserError where it is not installed."""
    try:
        import compressed_tensors.compressors  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Quantised checkpoints are written by compressed-tensors, which is not installed.",
            got=error,
            allowed="compressed-tensors 0.15 or later",
            next='pip install "minipuzzle[quant]"',
        ) from error
    return _scheme(format)


@cache
def _scheme(format: Format) -> Any:
    from compressed_tensors.quantization import preset_name_to_scheme

    found = preset_name_to_scheme(format.scheme, ["Linear"])
    if found.weights.strategy == "group":
        found.weights.group_size = format.group
    found.format = format.packing
    return found


def cache_scheme() -> Any:
    """compressed-tensors' scheme of keys and values in FP8, a scale for all of a block's."""
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(num_bits=8, type="float", strategy="tensor", dynamic=False)


def cache_scale(top: Tensor) -> Tensor:
    """That of keys or of values whose largest magnitude is ``top`` [1]."""
    from compressed_tensors.quantization.utils import calculate_qparams

    scale: Tensor = calculate_qparams(-top, top, cache_scheme())[0]
    return scale


def _compressor(format: Format) -> Any:
    from compressed_tensors.compressors import BaseCompressor

    return BaseCompressor.get_value_from_registry(format.packing)
