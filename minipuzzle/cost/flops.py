"""Floating-point operations of one token's forward pass: what each kind of block declares, and the
head.
"""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Flops


def flops_per_token(architecture: Architecture, context: int) -> Flops:
    """Forward operations for one token that sees ``context`` tokens, itself included.

    The blocks' (``kinds.Block.flops``), and 2 x the elements of the head (tied or not; looking up
    an embedding is free). Norms, activations, gates and softmax are left out, as in the usual
    2 x parameters of arXiv:2001.08361.
    """
    return sum((block.flops(context) for block in architecture.blocks), _head(architecture))


def text_flops(architecture: Architecture, length: int) -> Flops:
    """As ``flops_per_token``, for a token of a text of ``length`` tokens, on average."""
    return sum((block.text_flops(length) for block in architecture.blocks), _head(architecture))


def _head(architecture: Architecture) -> Flops:
    return Flops(matmul=2 * architecture.vocab_size * architecture.hidden)
