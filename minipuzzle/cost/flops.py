"""Floating-point operations of one token's forward pass: matrices, attention, the Mamba-2
recurrence.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Attention, Mamba2


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations a token, a multiplication and an addition each counted as one."""

    matmul: int
    attention: int
    scan: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.matmul + self.attention + self.scan


def flops_per_token(architecture: Architecture, context: int) -> Flops:
    """Forward operations for one token that sees ``context`` tokens, itself included.

    matmul: 2 x the elements of every projection and of the head (tied or not; looking up an
    embedding is free). attention: 2 x head_dim for each query head and token seen, for the scores
    and again for the values; a causal prefill of n tokens averages a context of (n + 1) / 2. scan:
    the recurrence of arXiv:2405.21060, h = a h + (dt x) B and y = C h + D x, is 5 operations a
    state element (less the first addition of y's sum, plus 3 for dt x and D x), and the convolution
    2 x kernel a channel (less one addition where it has no bias). A chunked scan does more, as
    matrices. Norms, activations, gates and softmax are left out, as in the usual 2 x parameters of
    arXiv:2001.08361.
    """
    matmul = 2 * architecture.vocab_size * architecture.hidden
    for tensor in architecture.tensors():
        if tensor.block is not None and len(tensor.shape) == 2:
            matmul += 2 * tensor.weight.numel(tensor.sizes)
    attention = scan = 0
    for block in architecture.blocks:
        if isinstance(block, Attention):
            attention += 4 * block.q_heads * block.attn_head_dim * context
        if isinstance(block, Mamba2):
            scan += block.inner * (5 * block.state + 2)
            scan += block.conv_channels * (2 * block.conv_kernel - (not block.conv_bias))
    return Flops(matmul=matmul, attention=attention, scan=scan)
