"""Prompts with answers, packed whole: JSON lines {"prompt": "...", "answer": "..."}, losses on the
answers only.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.blocks import TokenBlocks, narrow
from minipuzzle.data.files import data_files, file_format, reading, say_left_out
from minipuzzle.data.json_lines import json_lines, text_field
from minipuzzle.data.tokenizer import Tokenizer
from minipuzzle.errors import UserError

Example = tuple[NDArray[np.uint32], NDArray[np.uint32]]


ALLOWED = '{"prompt": "...", "answer": "..."}, neither of them empty'


def has_answers(path: Path) -> bool:
    """Whether a text is JSON lines of prompts and answers: its first line says so. Raises:
    UserError as ``json_lines``.
    """
    files = data_files(path)
    if any(file_format(file) != ".jsonl" for file in files):
        return False
    first: dict[str, Any] = next((row for file in files for _, row in json_lines(file)), {})
    return "prompt" in first and "answer" in first


def read_examples(path: Path) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of each line. Raises: UserError for a line without both, or with an empty
    one.
    """
    for file in data_files(path):
        if file_format(file) != ".jsonl":
            raise UserError(
                f"{file} holds no prompts and answers.",
                got=file.suffix,
                allowed=f".jsonl, each line {ALLOWED}",
                next="Convert it, or take it out of the folder.",
            )
        for number, row in json_lines(file):
            prompt, answer = (
                text_field(file, number, row, name, ALLOWED) for name in ("prompt", "answer")
            )
            if not prompt or not answer:
                raise UserError(
                    f"Line {number} of {file} is no example.",
                    got=f"an empty {'answer' if prompt else 'prompt'}",
                    allowed=ALLOWED,
                    next="Fix or remove that line.",
                )
            yield prompt, answer


def load_instructions(
    path: Path, tokenizer: Tokenizer, *, block_length: int, seed: int = 0
) -> TokenBlocks:
    """Blocks of whole examples: prompt, answer, end token; the rest of a block is end tokens
    without a loss.

    ``documents`` numbers segments, not documents: 2 k for the prompt of a block's k-th example and
    for what fills the block, 2 k + 1 for its answer and end token. The answer's text follows the
    prompt's directly: white space between them belongs to one of them. Raises: UserError as
    ``read_examples``, and for an example longer than a block.
    """
    say_left_out(path)
    texts = list(read_examples(path))
    if not texts:
        raise UserError(
            f"{path} holds no examples.",
            got="no line",
            allowed=f"at least one {ALLOWED}",
            next="Name another file.",
        )
    prompts = tokenizer.encode_documents(prompt for prompt, _ in texts)
    answers = tokenizer.encode_following(answer for _, answer in texts)
    # an answer ends with the end token, a prompt does not
    examples = [(prompt[:-1], answer) for prompt, answer in zip(prompts, answers, strict=True)]
    _check_lengths(examples, block_length)
    order = np.random.default_rng(seed).permutation(len(examples))
    bins = fill_blocks([sum(map(len, examples[i])) for i in order], block_length)
    tokens = np.full((len(bins), block_length), tokenizer.eos_id, dtype=np.uint32)
    documents = np.zeros((len(bins), block_length), dtype=np.int32)
    for row, members in enumerate(bins):
        _write_row(tokens[row], documents[row], [examples[order[i]] for i in members])
    digest = hashlib.sha256(
        f"instructions {tokenizer.fingerprint} {tokenizer.eos_id} {block_length} {seed}".encode()
    )
    for file in data_files(path):
        with reading(file), file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return TokenBlocks(
        tokens=narrow(tokens, tokenizer.vocab_size),
        documents=documents,
        fingerprint=digest.hexdigest()[:16],
        text_bytes=sum(len(p.encode()) + len(a.encode()) for p, a in texts),
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
    for number, (prompt, answer) in enumerate(members):
        middle, end = at + len(prompt), at + len(prompt) + len(answer)
        tokens[at:middle], tokens[middle:end] = prompt, answer
        documents[at:middle], documents[middle:end] = 2 * number, 2 * number + 1
        at = end
    documents[at:] = 2 * len(members)


def _check_lengths(examples: list[Example], block_length: int) -> None:
    lengths = [len(prompt) + len(answer) for prompt, answer in examples]
    longer = sum(length > block_length for length in lengths)
    if longer:
        raise UserError(
            f"{longer:,} of {len(examples):,} examples are longer than a block.",
            got=f"up to {max(lengths):,} tokens",
            allowed=f"at most {block_length:,}",
            next=f"Raise data.length to {max(lengths)}, or shorten them.",
        )
