"""How long the blocks of a training are: one length, or several in turn. No torch."""

from __future__ import annotations

import math
from dataclasses import replace

from minipuzzle.errors import UserError
from minipuzzle.settings.bounds import LENGTHS, check
from minipuzzle.settings.counts import parse_count, parse_share
from minipuzzle.settings.training import Training

Lengths = tuple[tuple[int, float], ...]
"""(tokens in a block, share of all tokens) of each stretch of a training, in order."""


def parse_lengths(text: str) -> Lengths:
    """The lengths of "8k:80%,32k:20%", or of "4096" alone. Raises: UserError for other texts."""
    parts = text.split(",")
    if len(parts) == 1 and ":" not in text:
        return ((parse_count(text), 1.0),)
    pairs = [part.split(":") for part in parts]
    if not all(len(pair) == 2 for pair in pairs):
        raise _nonsense(text)
    return tuple((parse_count(length), parse_share(share)) for length, share in pairs)


def check_lengths(lengths: Lengths) -> None:
    """Raises: UserError for lengths that do not rise, or do not divide the longest, and for shares
    that are not all of the tokens.
    """
    for length, _ in lengths:
        check("distill.length", length, *LENGTHS)
    numbers, shares = [length for length, _ in lengths], [share for _, share in lengths]
    if lengths and not (
        numbers == sorted(set(numbers))
        and not any(numbers[-1] % length for length in numbers)
        and all(share > 0 for share in shares)
        and math.isclose(sum(shares), 1, abs_tol=1e-6)
    ):
        raise _nonsense(",".join(f"{length}:{share:.4g}" for length, share in lengths))


def at_length(training: Training, first: int, length: int) -> Training:
    """The same with as many tokens in a step, and at once, in blocks of ``length`` as there are in
    those of the ``first`` length; at once at least a block.

    Raises: UserError where a step's tokens are no whole number of blocks.
    """
    batch, over = divmod(training.batch * first, length)
    if over:
        raise UserError(
            "A step's tokens are no whole number of the longer blocks.",
            got=f"{training.batch} blocks of {first:,} tokens, then blocks of {length:,}",
            allowed=f"a batch that is a multiple of {length // math.gcd(first, length)}",
            next="Change training.batch: it counts blocks of the first length.",
        )
    at_once = max(1, training.micro_batch * first // length) if training.micro_batch else 0
    return replace(training, batch=batch, micro_batch=at_once)


def _nonsense(text: str) -> UserError:
    return UserError(
        "distill.length is no schedule of lengths.",
        got=text,
        allowed=(
            "a length, or lengths that rise and divide the longest, with shares of the tokens that"
            " make 100%: 8k:80%,32k:20%"
        ),
        next="Write it in one of those forms.",
    )
