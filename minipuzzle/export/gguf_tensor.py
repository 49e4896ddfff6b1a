"""What a layout of a GGUF file is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """One tensor of the file: its name there, the canonical tensor it is made of, how, and whether
    it is a matrix.

    Only matrices are stored in fewer bits than FP32: llama.cpp wants its vectors and convolutions
    in FP32.
    """

    name: str
    source: str
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
    matrix: bool = True


def stored_bytes(library: ModuleType, kind: str, shape: Sequence[int]) -> int:
    """Of a tensor in GGML's type ``kind``, by the package gguf."""
    block, size = library.GGML_QUANT_SIZES[library.GGMLQuantizationType[kind.upper()]]
    return prod(shape) // int(block) * int(size)
