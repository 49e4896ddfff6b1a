"""Packed token blocks: documents shuffled, joined and cut to one length, with random access by
step.

A block follows from (position, seed) alone, so training resumes exactly from a number, without a
loader's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.shares import apportion, schedule
from minipuzzle.errors import UserError


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

    With ``spans`` only some tokens carry a loss, and ``documents`` says which: 2 k + 1 in the k-th
    document of a block, 2 k are its others. Then no document sees another one, wherever a loss is
    computed. ``shares`` are what each domain has of a stream, in whole numbers; empty where each
    block comes as often. ``shorter`` is the same text packed into shorter blocks, where a training
    takes such ones too (``pieces.cut``).
    """

    tokens: NDArray[np.unsignedinteger]
    documents: NDArray[np.int32]
    fingerprint: str
    text_bytes: int
    domains: tuple[Domain, ...] = ()
    spans: bool = False
    shares: tuple[int, ...] = ()
    shorter: tuple[TokenBlocks, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return int(self.tokens.shape[1])

    @property
    def counted(self) -> int:
        """How many tokens ``text_bytes`` is the size of: those that carry a loss."""
        return int((self.documents % 2).sum()) if self.spans else int(self.tokens.size)

    @property
    def predicting(self) -> NDArray[np.bool_]:
        """[n_blocks, length]: the positions that predict a token with a loss, of ``spans``."""
        return np.pad(self.documents[:, 1:] % 2 == 1, ((0, 0), (0, 1)))

    def batch(
        self, step: int, batch_size: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """``stream`` from step ``step`` of batches of one size."""
        return self.stream(range(step * batch_size, (step + 1) * batch_size), seed)

    def stream(self, positions: range, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(tokens [n, length] int64, documents [n, length] int32) at n positions of an endless
        stream of blocks.

        Each epoch is a permutation of all blocks by (seed, epoch); with ``shares`` those of each
        domain are in epochs of their own.
        """
        rows = [self._row(p, seed) for p in positions]
        return self.tokens[rows].astype(np.int64), self.documents[rows]

    def distinct(self, positions: int) -> int:
        """How many of the first ``positions`` of a stream it takes to meet every block that is
        there: those of one epoch; all of them in a blend, whose domains have epochs of their own.
        """
        return positions if self.shares else min(positions, len(self))

    def take(self, count: int, seed: int = 0) -> TokenBlocks:
        """``count`` blocks chosen by seed, of each domain its share. Raises: UserError where there
        are fewer.
        """
        if count > len(self):
            raise UserError(
                "The text is too short.",
                got=f"{len(self)} blocks of {self.block_length} tokens",
                allowed=f"at least {count}",
                next="Give more text, or ask for fewer samples.",
            )
        return self._rows(self._chosen(count, seed), f"take {count} {seed}")

    def proportioned(self, seed: int = 0) -> TokenBlocks:
        """As many blocks as there are in these ``shares``, chosen by seed."""
        rows = self._chosen(None, seed)
        return self if len(rows) == len(self) else self._rows(rows, f"shares {seed}")

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
                    shares=(),
                ),
            )
            for d, start in zip(self.domains, starts, strict=True)
        ]

    def share(self, rank: int, world: int) -> TokenBlocks:
        """Blocks rank, rank + world, ...: equally many for each of ``world`` processes. All of them
        where that cannot be.
        """
        if len(self) % world:
            return self
        return self._rows(np.arange(rank, len(self), world), f"share {rank} of {world}")

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
            shares=tuple(share for share, n in zip(self.shares, counts, strict=False) if n),
            shorter=(),
        )

    def _row(self, position: int, seed: int) -> int:
        if not self.shares:
            return int(_order(len(self), seed, position // len(self))[position % len(self)])
        sources, before = schedule(self.shares)
        epoch, place = divmod(position, len(sources))
        source, blocks = sources[place], self.domains[sources[place]].blocks
        number = epoch * self.shares[source] + before[place]  # of this source's blocks
        order = _order(blocks, seed, int(number // blocks), int(source))
        return int(self._edges()[source] + order[number % blocks])

    def _chosen(self, count: int | None, seed: int) -> NDArray[np.int64]:
        """The rows, rising, of ``count`` blocks, in these ``shares`` as far as there are enough of
        each domain; None: as many as there are in them.
        """
        if not self.shares:
            return np.sort(_order(len(self), seed, 0)[:count])
        counts = apportion(self.shares, [domain.blocks for domain in self.domains], count)
        chosen = [
            start + np.sort(_order(domain.blocks, seed, 0, source)[:taken])
            for source, (start, domain, taken) in enumerate(
                zip(self._edges()[:-1], self.domains, counts, strict=True)
            )
        ]
        return np.concatenate(chosen)

    def _edges(self) -> NDArray[np.int64]:
        """Where each domain starts, and where the last one ends."""
        return np.cumsum([0, *(domain.blocks for domain in self.domains)])


@lru_cache(maxsize=16)
def _order(count: int, seed: int, epoch: int, *source: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, *source)).permutation(count)


def pack(
    token_lists: Iterable[NDArray[np.unsignedinteger]],
    *,
    block_length: int,
    vocab_size: int,
    seed: int,
    fingerprint: str,
    text_bytes: int,
    marks: list[NDArray[np.bool_]] | None = None,
) -> TokenBlocks:
    """Blocks of all documents, shuffled by seed and joined; the last, incomplete block is dropped.

    ``marks`` are, of each document, the tokens that carry a loss (``TokenBlocks.spans``).
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
    tokens = np.concatenate([lists[i] for i in order])[: count * block_length].reshape(
        count, block_length
    )
    numbers = np.repeat(np.arange(len(lists), dtype=np.int32), [len(lists[i]) for i in order])
    documents = numbers[: count * block_length].reshape(count, block_length)
    documents -= documents[:, :1].copy()
    if marks is not None:
        flat = np.concatenate([marks[i] for i in order])[: documents.size]
        documents = 2 * documents + flat.reshape(documents.shape)
    return TokenBlocks(
        tokens=tokens,
        documents=documents,
        fingerprint=fingerprint,
        text_bytes=round(text_bytes * tokens.size / total),
        spans=marks is not None,
    )


def joined(parts: Sequence[TokenBlocks], names: Sequence[str] = ()) -> TokenBlocks:
    """The blocks of several texts, one after another, as one text; with ``names`` a domain each,
    where there are several.

    Where one of them has ``spans`` all have: of the others every token carries a loss.
    """
    first, *others = parts
    if not others:
        return first
    spans = any(p.spans for p in parts)
    return replace(
        first,
        tokens=np.concatenate([p.tokens for p in parts]),
        documents=np.concatenate(
            [2 * p.documents + 1 if spans and not p.spans else p.documents for p in parts]
        ),
        text_bytes=sum(p.text_bytes for p in parts),
        domains=tuple(
            Domain(name, len(p), p.text_bytes) for name, p in zip(names, parts, strict=True)
        )
        if names
        else (),
        spans=spans,
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
