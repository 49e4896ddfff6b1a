"""Scales of keys and values, by which engines keep them in FP8: two numbers an attention block, in
the file beside its weights. No torch.

Source: compressed-tensors 0.20, ``kv_cache_scheme`` (lifecycle/initialize.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.planned import Piece
from minipuzzle.errors import UserError

SCALES = {"keys": "k_scale", "values": "v_scale"}
"""What a file calls the scale of what is cached."""


def caching(pieces: Iterable[Piece], architecture: Architecture) -> dict[int, Piece]:
    """The first matrix of each block that caches keys and values, by the block's number: the module
    that it lies in has the scales, in the matrix's dtype.
    """
    found: dict[int, Piece] = {}
    for piece in pieces:
        block = piece.planned.block
        if piece.matrix and block is not None and architecture.blocks[block].cache(1).kv:
            found.setdefault(block, piece)
    return found


def check_caching(pieces: Iterable[Piece], architecture: Architecture) -> dict[int, Piece]:
    """As ``caching``. Raises: UserError where no block caches keys and values."""
    found = caching(pieces, architecture)
    if not found:
        raise UserError(
            "No block of this model caches keys and values.",
            got=f"quantize.kv fp8; blocks {architecture.pattern}",
            allowed="models with attention",
            next="Change quantize.kv to none.",
        )
    return found


def scale_names(piece: Piece) -> dict[str, str]:
    """ "keys" and "values" -> the scales in the module that a matrix lies in, as the file names
    them.
    """
    module = piece.layer.rpartition(".")[0]
    return {what: f"{module}.{name}" for what, name in SCALES.items()}


def scale_bytes(found: Mapping[int, Piece], width: Callable[[str], int]) -> int:
    """The bytes of all scales; ``width``: bytes a number of a tensor of ours."""
    return len(SCALES) * sum(width(piece.planned.name) for piece in found.values())
