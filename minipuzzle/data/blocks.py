"""Packed token blocks: documents shuffled, joined and cut to one length, with random access by
step.

A block follows from (position, seed) alone, so training resumes exactly from a number, without a
loader's state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minipuzzle.artifacts import write_atomic
from minipuzzle.data.documents import file_documents, read_documents, text_name
from minipuzzle.data.files import data_files, reading, say_left_out
from minipuzzle.data.tokenizer import Tokenizer
from minipuzzle.errors import UserError

OTHERS = "others"
"""The domain of the files that are too short to be one."""


class Domain(NamedTuple):
    """A kind of text: its name, how many blocks it has, and their size in UTF-8."""

    name: str
    blocks: int
    text_bytes: int


@dataclass(frozen=True, kw_only=True)
class TokenBlocks:
    """``tokens`` [n_blocks, length] uint16 or uint32; ``documents`` [n_blocks, length] int32 counts
    documents within a block from 0; ``text_bytes`` is the size in UTF-8 of the text these tokens
    stand for. ``domains`` says of which text the blocks are, in their order; empty where they are
    all of one.
    """

    tokens: NDArray[np.unsignedinteger]
    documents: NDArray[np.int32]
    fingerprint: str
    text_bytes: int
    domains: tuple[Domain, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return int(self.tokens.shape[1])

    def batch(
        self, step: int, batch_size: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """``stream`` from step ``step`` of batches of one size."""
        return self.stream(range(step * batch_size, (step + 1) * batch_size), seed)

    def stream(self, positions: range, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(tokens [n, length] int64, documents [n, length] int32) at n positions of an endless
        stream of blocks.

        Each epoch is a permutation of all blocks by (seed, epoch).
        """
        rows = [_order(len(self), seed, p // len(self))[p % len(self)] for p in positions]
        return self.tokens[rows].astype(np.int64), self.documents[rows]

    def take(self, count: int, seed: int = 0) -> TokenBlocks:
        """``count`` blocks chosen by seed. Raises: UserError where there are fewer."""
        if count > len(self):
            raise UserError(
                "The text is too short.",
                got=f"{len(self)} blocks of {self.block_length} tokens",
                allowed=f"at least {count}",
                next="Give more text, or ask for fewer samples.",
            )
        return self._rows(np.sort(_order(len(self), seed, 0)[:count]), f"take {count} {seed}")

    def every_other(self, first: int) -> TokenBlocks:
        """Blocks first, first + 2, ...: two disjoint halves for ``first`` 0 and 1."""
        return self._rows(np.arange(first, len(self), 2), f"half {first}")

    def by_domain(self) -> list[tuple[str, TokenBlocks]]:
        """(its name, its blocks) of each domain, in order; empty where the text is of one."""
        starts = self._edges()[:-1]
        return [
            (
                d.name,
                replace(
                    self._rows(np.arange(start, start + d.blocks), f"domain {d.name}"),
                    text_bytes=d.text_bytes,
                    domains=(),
                ),
            )
            for d, start in zip(self.domains, starts, strict=True)
        ]

    def share(self, rank: int, world: int) -> TokenBlocks:
        """Blocks rank, rank + world, ...: equally many for each of ``world`` processes. All of them
        where that cannot be.
        """
        return (
            self
            if len(self) % world
            else self._rows(np.arange(rank, len(self), world), f"share {rank} of {world}")
        )

    def _rows(self, rows: NDArray[np.integer], how: str) -> TokenBlocks:
        """Those at ``rows``, which rise."""
        digest = hashlib.sha256(f"{self.fingerprint} {how}".encode()).hexdigest()[:16]
        share = len(rows) / len(self)
        counts = np.diff(np.searchsorted(rows, self._edges())).tolist()
        domains = tuple(
            Domain(d.name, n, round(d.text_bytes * n / d.blocks))
            for d, n in zip(self.domains, counts, strict=True)
            if n
        )
        return replace(
            self,
            tokens=self.tokens[rows],
            documents=self.documents[rows],
            fingerprint=digest,
            text_bytes=round(self.text_bytes * share),
            domains=domains,
        )

    def _edges(self) -> NDArray[np.int64]:
        """Where each domain starts, and where the last one ends."""
        return np.cumsum([0, *(domain.blocks for domain in self.domains)])


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def pack(
    token_lists: Iterable[NDArray[np.unsignedinteger]],
    *,
    block_length: int,
    vocab_size: int,
    seed: int,
    fingerprint: str,
    text_bytes: int,
) -> TokenBlocks:
    """Blocks of all documents, shuffled by seed and joined; the last, incomplete block is dropped.

    Raises: UserError for less text than one block, or a token that the vocabulary does not have.
    """
    lists = [narrow(tokens, vocab_size) for tokens in token_lists]
    total = sum(map(len, lists))
    count = total // block_length
    if count == 0:
        raise UserError(
            "The text is shorter than a block.",
            got=f"{total:,} tokens",
            allowed=f"at least {block_length:,}",
            next="Give more text, or lower data.length.",
        )
    order = np.random.default_rng(seed).permutation(len(lists))
    joined = np.concatenate([lists[i] for i in order])[: count * block_length].reshape(
        count, block_length
    )
    numbers = np.repeat(np.arange(len(lists), dtype=np.int32), [len(lists[i]) for i in order])
    documents = numbers[: count * block_length].reshape(count, block_length)
    documents -= documents[:, :1].copy()
    return TokenBlocks(
        tokens=joined,
        documents=documents,
        fingerprint=fingerprint,
        text_bytes=round(text_bytes * joined.size / total),
    )


def narrow(tokens: NDArray[np.unsignedinteger], vocab_size: int) -> NDArray[np.unsignedinteger]:
    """The tokens as uint16, or uint32 where the vocabulary has more than 65536 words. Raises:
    UserError outside it.
    """
    if len(tokens) and int(tokens.max()) >= vocab_size:
        raise UserError(
            "A token is outside the vocabulary.",
            got=int(tokens.max()),
            allowed=f"below {vocab_size}",
            next="Use the model's own tokenizer.",
        )
    return tokens.astype(np.uint16 if vocab_size <= 1 << 16 else np.uint32, copy=False)


def load_blocks(
    path: Path,
    tokenizer: Tokenizer,
    *,
    block_length: int,
    seed: int = 0,
    cache: Path | None = None,
    max_tokens: int | None = None,
    by_file: bool = False,
) -> TokenBlocks:
    """The token blocks of a text, kept in the folder ``cache`` so that the next command finds them.

    ``max_tokens`` takes only that many tokens from the start of the text (files by name, documents
    as they stand). ``by_file`` makes each file of a folder a domain with blocks of its own, named
    by the file; files of fewer than two blocks are one domain together. Raises: UserError as
    ``read_documents`` and ``pack``, and for a damaged file in ``cache``.
    """
    digest = hashlib.sha256(
        f"{tokenizer.fingerprint} {tokenizer.eos_id} {block_length} {seed}".encode()
    )
    files = data_files(path)
    by_file = by_file and len(files) > 1
    for file in files:
        with reading(file), file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
        if by_file:
            digest.update(f"domain {text_name(file)}".encode())
    if max_tokens is not None:
        digest.update(f"first {max_tokens}".encode())
    fingerprint = digest.hexdigest()[:16]
    stored = None if cache is None else cache / f"{fingerprint}.safetensors"
    if stored is not None and stored.exists():
        return _read(stored, fingerprint, block_length)
    say_left_out(path)

    def packed(lists: list[NDArray[np.unsignedinteger]], size: int) -> TokenBlocks:
        return pack(
            lists,
            block_length=block_length,
            vocab_size=tokenizer.vocab_size,
            seed=seed,
            fingerprint=fingerprint,
            text_bytes=size,
        )

    if by_file:
        each = ((text_name(file), _encode(file_documents(file), tokenizer)) for file in files)
        blocks = _joined(
            {name: packed(*text) for name, text in _domains(each, block_length).items()}
        )
    else:
        blocks = packed(*_encode(read_documents(path), tokenizer, max_tokens))
    if stored is not None:
        tensors = {
            "tokens": np.ascontiguousarray(blocks.tokens),
            "documents": np.ascontiguousarray(blocks.documents),
        }
        about = json.dumps(
            {"text_bytes": blocks.text_bytes, "source": str(path), "domains": blocks.domains}
        )
        write_atomic(stored, save(tensors, metadata={"about": about}))
    return blocks


def _encode(
    documents: Iterable[str], tokenizer: Tokenizer, max_tokens: int | None = None
) -> tuple[list[NDArray[np.unsignedinteger]], int]:
    """The tokens of each document, and the size of their text in bytes."""
    sizes: list[int] = []

    def sized() -> Iterator[str]:
        for document in documents:
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


_Text = tuple[list[NDArray[np.unsignedinteger]], int]


def _domains(each: Iterable[tuple[str, _Text]], block_length: int) -> dict[str, _Text]:
    """The texts by name, those of one name as one, and those of fewer than two blocks together as
    ``OTHERS``.

    Where even these make no block they are left out, as the incomplete end of any text is.
    """
    texts: dict[str, _Text] = {}

    def add(name: str, text: _Text) -> None:
        lists, size = texts.get(name, ([], 0))
        texts[name] = (lists + text[0], size + text[1])

    def tokens(name: str) -> int:
        return sum(map(len, texts[name][0]))

    for name, text in each:
        add(name, text)
    for name in [name for name in texts if tokens(name) < 2 * block_length]:
        add(OTHERS, texts.pop(name))
    if len(texts) > 1 and OTHERS in texts and tokens(OTHERS) < block_length:
        del texts[OTHERS]
    return texts


def _joined(parts: dict[str, TokenBlocks]) -> TokenBlocks:
    """The blocks of several texts, one after another, as one text of as many domains."""
    first, *others = parts.values()
    if not others:
        return first
    return replace(
        first,
        tokens=np.concatenate([p.tokens for p in parts.values()]),
        documents=np.concatenate([p.documents for p in parts.values()]),
        text_bytes=sum(p.text_bytes for p in parts.values()),
        domains=tuple(Domain(name, len(p), p.text_bytes) for name, p in parts.items()),
    )


def _read(path: Path, fingerprint: str, block_length: int) -> TokenBlocks:
    try:
        with safe_open(path, framework="np") as opened:
            about = json.loads(opened.metadata()["about"])
            tokens, documents = opened.get_tensor("tokens"), opened.get_tensor("documents")
        if (
            tokens.shape != documents.shape
            or tokens.shape[1:] != (block_length,)
            or not len(tokens)
        ):
            raise ValueError(f"tokens {list(tokens.shape)}, documents {list(documents.shape)}")
        return TokenBlocks(
            tokens=tokens,
            documents=documents,
            fingerprint=fingerprint,
            text_bytes=int(about["text_bytes"]),
            domains=tuple(Domain(*d) for d in about.get("domains", ())),
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            "The stored tokens cannot be read.",
            got=f"{path}: {error}",
            allowed="a file that minipuzzle wrote",
            next="Delete it; it is made again.",
        ) from error
