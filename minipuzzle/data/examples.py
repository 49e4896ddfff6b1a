"""Whole conversations packed into blocks, each with the marks of the tokens that carry a loss."""

from __future__ import annotations

import bisect
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.blocks import TokenBlocks, narrow
from minipuzzle.data.conversations import Conversations, Example
from minipuzzle.data.rows import ALLOWED
from minipuzzle.errors import UserError

log = logging.getLogger(__name__)


def read_examples(file: Path, reader: Conversations, longest: int | None) -> list[Example]:
    """The conversations of a file of at most ``longest`` tokens; says what is left out, and how
    many of their tokens carry a loss.

    Raises: UserError as ``Conversations.read``, and where nothing is left.
    """
    missed, silent = reader.missed, reader.silent
    found = list(reader.read(file))
    kept = [e for e in found if longest is None or len(e.tokens) <= longest]
    most = max((len(e.tokens) for e in found), default=0)
    missed, silent = reader.missed - missed, reader.silent - silent
    if not kept:
        raise _nothing_left(file, len(found), most, silent, longest)
    left = [
        f"{len(found) - len(kept):,} longer than a block of {longest:,} tokens (up to {most:,})"
        if len(kept) < len(found)
        else "",
        f"{silent:,} without a token that carries a loss" if silent else "",
    ]
    total = sum(len(e.tokens) for e in kept)
    wanted = sum(int(e.wanted.sum()) for e in kept)
    log.info(
        f"chat of {file}: {len(kept):,} conversations, {total:,} tokens, loss on {wanted:,} of them"
    )
    if any(left):
        log.warning(f"chat of {file}: left out {' and '.join(filter(None, left))}")
    if missed:
        log.warning(
            f"chat of {file}: {missed:,} turns of the assistant carry no loss: the chat template"
            " writes them otherwise once others follow"
        )
    return kept


def pack_examples(
    examples: list[Example],
    *,
    block_length: int,
    vocab_size: int,
    filling: int,
    seed: int,
    fingerprint: str,
) -> TokenBlocks:
    """Blocks of whole examples, none longer than a block; the rest of a block is the token
    ``filling``, without a loss.

    ``documents`` are those of ``TokenBlocks.spans``: 2 k + 1 where a token of a block's k-th
    example carries a loss, else 2 k; what fills the block is another example.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    bins = fill_blocks([len(examples[i].tokens) for i in order], block_length)
    tokens = np.full((len(bins), block_length), filling, dtype=np.uint32)
    documents = np.zeros((len(bins), block_length), dtype=np.int32)
    for row, members in enumerate(bins):
        _write_row(tokens[row], documents[row], [examples[order[i]] for i in members])
    return TokenBlocks(
        tokens=narrow(tokens, vocab_size),
        documents=documents,
        fingerprint=fingerprint,
        text_bytes=sum(e.text_bytes for e in examples),
        spans=True,
    )


def fill_blocks(lengths: list[int], capacity: int) -> list[list[int]]:
    """Positions of ``lengths`` in blocks: each, longest first, into the fullest block that has room
    (best fit).
    """
    blocks: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, block), ascending
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect.bisect_left(room, (lengths[position], -1))
        if place == len(room):
            blocks.append([])
            free, block = capacity, len(blocks) - 1
        else:
            free, block = room.pop(place)
        blocks[block].append(position)
        bisect.insort(room, (free - lengths[position], block))
    return blocks


def _write_row(
    tokens: NDArray[np.uint32], documents: NDArray[np.int32], members: list[Example]
) -> None:
    at = 0
    for number, example in enumerate(members):
        end = at + len(example.tokens)
        tokens[at:end] = example.tokens
        documents[at:end] = 2 * number + example.wanted
        at = end
    documents[at:] = 2 * len(members)


def _nothing_left(file: Path, found: int, most: int, silent: int, longest: int | None) -> UserError:
    if found and longest is not None:
        return UserError(
            f"Every conversation of {file} is longer than a block.",
            got=f"{found:,}, up to {most:,} tokens",
            allowed=f"at most {longest:,}",
            next=f"Raise data.length to {most}, or shorten them.",
        )
    if silent:
        return UserError(
            f"No token of {file} carries a loss.",
            got=f"{silent:,} conversations without a turn of the assistant, or with a chat template"
            " that writes every turn otherwise once it is done",
            allowed="turns of the assistant, found with the template's generation tags or by"
            " rendering the start of a conversation",
            next="Put {% generation %} into the chat template around what the assistant writes, or"
            " set data.loss_on to all.",
        )
    return UserError(
        f"{file} holds no conversation.",
        got="no row",
        allowed=f"at least one with {ALLOWED}",
        next="Name another file.",
    )
