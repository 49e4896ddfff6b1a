"""One text of several: a domain each, in given shares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from math import gcd

from minipuzzle.data.blocks import TokenBlocks, joined


def blended(
    parts: Sequence[TokenBlocks], names: Sequence[str], weights: Sequence[int]
) -> TokenBlocks:
    """The blocks of ``parts``, a domain each; a stream of them has them in these shares of its
    blocks, whatever their numbers are.
    """
    divisor = gcd(*weights)
    shares = tuple(weight // divisor for weight in weights)
    about = [*(part.fingerprint for part in parts), *names, *shares]
    return replace(
        joined(parts, names),
        shares=shares,
        fingerprint=hashlib.sha256(" ".join(map(str, about)).encode()).hexdigest()[:16],
    )


def epochs(blocks: TokenBlocks, tokens: int) -> list[str]:
    """For people: what share of a training of so many tokens each source of a blend has, and how
    often it is read.
    """
    total = sum(blocks.shares)
    length = blocks.block_length
    return [
        f"{domain.name}: {share / total:.2%} of the tokens, {domain.blocks * length:,} of its own,"
        f" {tokens * share / total / (domain.blocks * length):.2f} epochs"
        for domain, share in zip(blocks.domains, blocks.shares, strict=True)
    ]
