"""Packed token blocks: documents shuffled, joined and cut to one length, with random access by step.

A block follows from (position, seed) alone, so training resumes exactly from a number, without a loader's state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minipuzzle.artifacts import write_atomic
from minipuzzle.data.documents import data_files, read_documents
from minipuzzle.data.tokenizer import Tokenizer
from minipuzzle.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TokenBlocks:
    """``tokens`` [n_blocks, length] uint16 or uint32; ``documents`` [n_blocks, length] int32 counts documents within a
    block from 0; ``text_bytes`` is the size in UTF-8 of the text these tokens stand for."""

    tokens: NDArray[np.unsignedinteger]
    documents: NDArray[np.int32]
    fingerprint: str
    text_bytes: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return int(self.tokens.shape[1])

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """``stream`` from step ``step`` of batches of one size."""
        return self.stream(range(step * batch_size, (step + 1) * batch_size), seed)

    def stream(self, positions: range, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(tokens [n, length] int64, documents [n, length] int32) at n positions of an endless stream of blocks.

        Each epoch is a permutation of all blocks by (seed, epoch).
        """
        rows = [_order(len(self), seed, p // len(self))[p % len(self)] for p in positions]
        return self.tokens[rows].astype(np.int64), self.documents[rows]

    def take(self, count: int, seed: int = 0) -> TokenBlocks:
        """``count`` blocks chosen by seed. Raises: UserError where there are fewer."""
        if count > len(self):
            raise UserError("The text is too short.", got=f"{len(self)} blocks of {self.block_length} tokens",
                            allowed=f"at least {count}", next="Give more text, or ask for fewer samples.")  # fmt: skip
        return self._rows(np.sort(_order(len(self), seed, 0)[:count]), f"take {count} {seed}")

    def every_other(self, first: int) -> TokenBlocks:
        """Blocks first, first + 2, ...: two disjoint halves for ``first`` 0 and 1."""
        return self._rows(np.arange(first, len(self), 2), f"half {first}")

    def share(self, rank: int, world: int) -> TokenBlocks:
        """Blocks rank, rank + world, ...: equally many for each of ``world`` processes. All of them where that cannot be."""
        return self if len(self) % world else self._rows(np.arange(rank, len(self), world), f"share {rank} of {world}")

    def _rows(self, rows: NDArray[np.integer], how: str) -> TokenBlocks:
        digest = hashlib.sha256(f"{self.fingerprint} {how}".encode()).hexdigest()[:16]
        share = len(rows) / len(self)
        return replace(self, tokens=self.tokens[rows], documents=self.documents[rows], fingerprint=digest,
                       text_bytes=round(self.text_bytes * share))  # fmt: skip


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def pack(
    token_lists: Iterable[NDArray[np.unsignedinteger]], *, block_length: int, vocab_size: int, seed: int,
    fingerprint: str, text_bytes: int,
) -> TokenBlocks:  # fmt: skip
    """Blocks of all documents, shuffled by seed and joined; the last, incomplete block is dropped.

    Raises: UserError for less text than one block, or a token that the vocabulary does not have.
    """
    lists = [narrow(tokens, vocab_size) for tokens in token_lists]
    total = sum(map(len, lists))
    count = total // block_length
    if count == 0:
        raise UserError("The text is shorter than a block.", got=f"{total:,} tokens",
                        allowed=f"at least {block_length:,}", next="Give more text, or lower --length.")  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(lists))
    joined = np.concatenate([lists[i] for i in order])[: count * block_length].reshape(count, block_length)
    numbers = np.repeat(np.arange(len(lists), dtype=np.int32), [len(lists[i]) for i in order])
    documents = numbers[: count * block_length].reshape(count, block_length)
    documents -= documents[:, :1].copy()
    return TokenBlocks(
        tokens=joined, documents=documents, fingerprint=fingerprint,
        text_bytes=round(text_bytes * joined.size / total),
    )  # fmt: skip


def narrow(tokens: NDArray[np.unsignedinteger], vocab_size: int) -> NDArray[np.unsignedinteger]:
    """The tokens as uint16, or uint32 where the vocabulary has more than 65536 words. Raises: UserError outside it."""
    if len(tokens) and int(tokens.max()) >= vocab_size:
        raise UserError("A token is outside the vocabulary.", got=int(tokens.max()), allowed=f"below {vocab_size}",
                        next="Use the model's own tokenizer.")  # fmt: skip
    return tokens.astype(np.uint16 if vocab_size <= 1 << 16 else np.uint32, copy=False)


def load_blocks(
    path: Path, tokenizer: Tokenizer, *, block_length: int, seed: int = 0, cache: Path | None = None,
    max_tokens: int | None = None,
) -> TokenBlocks:  # fmt: skip
    """The token blocks of a text, kept in the folder ``cache`` so that the next command finds them.

    ``max_tokens`` takes only that many tokens from the start of the text (files by name, documents as they stand).
    Raises: UserError as ``read_documents`` and ``pack``, and for a damaged file in ``cache``.
    """
    digest = hashlib.sha256(f"{tokenizer.fingerprint} {block_length} {seed}".encode())
    for file in data_files(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    if max_tokens is not None:
        digest.update(f"first {max_tokens}".encode())
    fingerprint = digest.hexdigest()[:16]
    stored = None if cache is None else cache / f"{fingerprint}.safetensors"
    if stored is not None and stored.exists():
        return _read(stored, fingerprint)
    lists, size = _encode(path, tokenizer, max_tokens)
    blocks = pack(lists, block_length=block_length, vocab_size=tokenizer.vocab_size, seed=seed,
                  fingerprint=fingerprint, text_bytes=size)  # fmt: skip
    if stored is not None:
        tensors = {"tokens": np.ascontiguousarray(blocks.tokens), "documents": np.ascontiguousarray(blocks.documents)}
        about = json.dumps({"text_bytes": blocks.text_bytes, "source": str(path)})
        write_atomic(stored, save(tensors, metadata={"about": about}))
    return blocks


def _encode(
    path: Path, tokenizer: Tokenizer, max_tokens: int | None
) -> tuple[list[NDArray[np.unsignedinteger]], int]:
    """The tokens of each document, and the size of their text in bytes."""
    sizes: list[int] = []

    def sized() -> Iterator[str]:
        for document in read_documents(path):
            sizes.append(len(document.encode()))
            yield document

    lists: list[NDArray[np.unsignedinteger]] = []
    total, size = 0, 0
    for number, tokens in enumerate(tokenizer.encode_documents(sized())):
        # the tokenizer reads ahead, so only the sizes of documents that came back count
        room = len(tokens) if max_tokens is None else min(len(tokens), max_tokens - total)
        lists.append(narrow(tokens[:room], tokenizer.vocab_size))
        total += room
        size += round(sizes[number] * room / len(tokens))
        if total == max_tokens:
            break
    return lists, size


def _read(path: Path, fingerprint: str) -> TokenBlocks:
    try:
        with safe_open(path, framework="np") as opened:
            about = json.loads(opened.metadata()["about"])
            return TokenBlocks(tokens=opened.get_tensor("tokens"), documents=opened.get_tensor("documents"),
                               fingerprint=fingerprint, text_bytes=about["text_bytes"])  # fmt: skip
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError("The stored tokens cannot be read.", got=f"{path}: {error}",
                        allowed="a file that minipuzzle wrote",
                        next="Delete it; it is made again.") from error  # fmt: skip
