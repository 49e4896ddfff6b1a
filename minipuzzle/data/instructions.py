"""Prompts with answers, packed whole: JSON lines {"prompt": "...", "answer": "..."}, losses on the answers only."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.blocks import TokenBlocks, narrow
from minipuzzle.data.documents import data_files, open_data
from minipuzzle.data.tokenizer import Tokenizer
from minipuzzle.errors import UserError

Example = tuple[NDArray[np.uint32], NDArray[np.uint32]]


def has_answers(path: Path) -> bool:
    """Whether a text is JSON lines of prompts and answers: its first line says so."""
    files = data_files(path)
    if not all(".jsonl" in file.suffixes for file in files):
        return False
    with open_data(files[0]) as file:
        try:
            first = json.loads(next((line for line in file if line.strip()), b"{}"))
        except json.JSONDecodeError:
            return False
    return isinstance(first, dict) and "prompt" in first and "answer" in first


def read_examples(path: Path) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of each line. Raises: UserError for a line without both, or with an empty one."""
    for file in data_files(path):
        with open_data(file) as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    yield _example(file, number, line)


def load_instructions(path: Path, tokenizer: Tokenizer, *, block_length: int, seed: int = 0) -> TokenBlocks:
    """Blocks of whole examples: prompt, answer, end token; the rest of a block is end tokens without a loss.

    ``documents`` numbers segments, not documents: 2 k for the prompt of a block's k-th example and for what fills the
    block, 2 k + 1 for its answer and end token. The answer's text follows the prompt's directly: white space between
    them belongs to one of them. Raises: UserError as ``read_examples``, and for an example longer than a block.
    """
    texts = list(read_examples(path))
    prompts = tokenizer.encode_documents(prompt for prompt, _ in texts)
    answers = tokenizer.encode_documents(answer for _, answer in texts)
    # an answer ends with the end token, a prompt does not
    examples = [(prompt[:-1], answer) for prompt, answer in zip(prompts, answers, strict=True)]
    _check_lengths(examples, block_length)
    order = np.random.default_rng(seed).permutation(len(examples))
    bins = fill_blocks([sum(map(len, examples[i])) for i in order], block_length)
    tokens = np.full((len(bins), block_length), tokenizer.eos_id, dtype=np.uint32)
    documents = np.zeros((len(bins), block_length), dtype=np.int32)
    for row, members in enumerate(bins):
        _write_row(tokens[row], documents[row], [examples[order[i]] for i in members])
    digest = hashlib.sha256(f"instructions {tokenizer.fingerprint} {block_length} {seed}".encode())
    for file in data_files(path):
        digest.update(file.read_bytes())
    return TokenBlocks(
        tokens=narrow(tokens, tokenizer.vocab_size), documents=documents, fingerprint=digest.hexdigest()[:16],
        text_bytes=sum(len(p.encode()) + len(a.encode()) for p, a in texts),
    )  # fmt: skip


def fill_blocks(lengths: list[int], capacity: int) -> list[list[int]]:
    """Positions of ``lengths`` in blocks: each, longest first, into the fullest block that has room (best fit)."""
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


def _write_row(tokens: NDArray[np.uint32], documents: NDArray[np.int32], members: list[Example]) -> None:
    at = 0
    for number, (prompt, answer) in enumerate(members):
        middle, end = at + len(prompt), at + len(prompt) + len(answer)
        tokens[at:middle], tokens[middle:end] = prompt, answer
        documents[at:middle], documents[middle:end] = 2 * number, 2 * number + 1
        at = end
    documents[at:] = 2 * len(members)


def _example(file: Path, number: int, line: bytes) -> tuple[str, str]:
    try:
        row = json.loads(line)
        prompt, answer = row["prompt"], row["answer"]
        if isinstance(prompt, str) and isinstance(answer, str) and prompt and answer:
            return prompt, answer
    except (json.JSONDecodeError, KeyError, TypeError):
        pass
    raise UserError(
        f"Line {number} of {file} is no example.", got=line[:60].decode(errors="replace").strip(),
        allowed='{"prompt": "...", "answer": "..."}, neither of them empty', next="Mend or remove that line.",
    )  # fmt: skip


def _check_lengths(examples: list[Example], block_length: int) -> None:
    lengths = [len(prompt) + len(answer) for prompt, answer in examples]
    longer = sum(length > block_length for length in lengths)
    if longer:
        raise UserError(
            f"{longer:,} of {len(examples):,} examples are longer than a block.", got=f"up to {max(lengths):,} tokens",
            allowed=f"at most {block_length:,}", next=f"Give --length {max(lengths)}, or shorten them.",
        )  # fmt: skip
