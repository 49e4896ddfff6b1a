"""The token blocks of a text file or folder: encoded, by domain where that is asked, and kept on
disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.blocks import TokenBlocks, joined, narrow, pack
from minipuzzle.data.chat_template import read_templates
from minipuzzle.data.conversations import Conversations, Example
from minipuzzle.data.documents import file_documents, read_documents, text_name
from minipuzzle.data.examples import pack_examples, read_examples
from minipuzzle.data.files import data_files, reading, say_left_out
from minipuzzle.data.rows import is_chat
from minipuzzle.data.stored import read_blocks, write_blocks
from minipuzzle.data.tokenizer import Tokenizer

OTHERS = "others"
"""The domain of the files that are too short to be one."""


def load_blocks(
    path: Path,
    tokenizer: Tokenizer,
    *,
    block_length: int,
    seed: int = 0,
    cache: Path | None = None,
    max_tokens: int | None = None,
    by_file: bool = False,
    loss_on: str = "assistant",
    whole: bool = True,
) -> TokenBlocks:
    """The token blocks of a text, kept in the folder ``cache`` so that the next command finds them.

    Files of conversations (``conversations``) are told by their first row; ``loss_on`` says which
    of their tokens carry a loss, "assistant" or "all". They are packed whole; without ``whole``
    joined and cut as documents are, so that nothing fills a block. ``max_tokens`` takes only that
    many tokens from the start of a text of documents (files by name, documents as they stand).
    ``by_file`` makes each file of a folder a domain with blocks of its own, named by the file;
    files of fewer than two blocks are one domain together. Raises: UserError as ``read_documents``,
    ``read_examples`` and ``pack``, and for a damaged file in ``cache``.
    """
    digest = hashlib.sha256(
        f"{tokenizer.fingerprint} {tokenizer.eos_id} {block_length} {seed}".encode()
    )
    files = data_files(path)
    by_file = by_file and len(files) > 1
    chats = {file for file in files if is_chat(file)}
    if chats:
        template = [read_templates(tokenizer.folder), tokenizer.names]
        digest.update(f"chat {loss_on} {whole} {json.dumps(template)}".encode())
    for file in files:
        with reading(file), file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
        if by_file:
            digest.update(f"domain {_domain(path, file)}".encode())
    if max_tokens is not None:
        digest.update(f"first {max_tokens}".encode())
    fingerprint = digest.hexdigest()[:16]
    stored = None if cache is None else cache / f"{fingerprint}.safetensors"
    if stored is not None and stored.exists():
        return read_blocks(stored, fingerprint, block_length)
    say_left_out(path)
    reader = Conversations(tokenizer=tokenizer, loss_on=loss_on)

    def read(file: Path) -> _Text:
        if file in chats:
            return _Text(examples=read_examples(file, reader, block_length if whole else None))
        return _encode(file_documents(file), tokenizer)

    def packed(text: _Text) -> TokenBlocks:
        return _pack(text, tokenizer, block_length, seed, fingerprint, whole)

    if by_file:
        domains = _domains(((_domain(path, file), read(file)) for file in files), block_length)
        blocks = joined([packed(text) for text in domains.values()], list(domains))
    elif chats:
        rest = chain.from_iterable(file_documents(file) for file in files if file not in chats)
        blocks = packed(sum(map(read, sorted(chats)), _encode(rest, tokenizer)))
    else:
        blocks = packed(_encode(read_documents(path), tokenizer, max_tokens))
    if stored is not None:
        write_blocks(stored, blocks, str(path))
    return blocks


@dataclass(kw_only=True)
class _Text:
    """The tokens of documents and the size of their text in bytes; conversations."""

    lists: list[NDArray[np.unsignedinteger]] = field(default_factory=list)
    size: int = 0
    examples: list[Example] = field(default_factory=list)

    def __add__(self, other: _Text) -> _Text:
        return _Text(
            lists=self.lists + other.lists,
            size=self.size + other.size,
            examples=self.examples + other.examples,
        )

    @property
    def documents(self) -> int:
        """The tokens of its documents."""
        return sum(map(len, self.lists))

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.documents + sum(len(e.tokens) for e in self.examples)


def _domain(folder: Path, file: Path) -> str:
    """A file's name in its folder, without the endings of its format."""
    return str(file.relative_to(folder).with_name(text_name(file)))


def _pack(
    text: _Text, tokenizer: Tokenizer, block_length: int, seed: int, fingerprint: str, whole: bool
) -> TokenBlocks:
    def documents(text: _Text, marks: list[NDArray[np.bool_]] | None = None) -> TokenBlocks:
        return pack(
            text.lists,
            block_length=block_length,
            vocab_size=tokenizer.vocab_size,
            seed=seed,
            fingerprint=fingerprint,
            text_bytes=text.size,
            marks=marks,
        )

    if not text.examples:
        return documents(text)
    if not whole:
        marks = [np.ones(len(tokens), bool) for tokens in text.lists]
        size = sum(e.text_bytes for e in text.examples)
        return documents(
            text + _Text(lists=[e.tokens for e in text.examples], size=size),
            marks + [e.wanted for e in text.examples],
        )
    made = pack_examples(
        text.examples,
        block_length=block_length,
        vocab_size=tokenizer.vocab_size,
        filling=tokenizer.eos_id,
        seed=seed,
        fingerprint=fingerprint,
    )
    if text.documents < block_length:  # left out, as the incomplete end of any text is
        return made
    return joined([documents(text), made])


def _encode(documents: Iterable[str], tokenizer: Tokenizer, max_tokens: int | None = None) -> _Text:
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
    return _Text(lists=lists, size=size)


def _domains(each: Iterable[tuple[str, _Text]], block_length: int) -> dict[str, _Text]:
    """The texts by name, those of one name as one, and those of fewer than two blocks together as
    ``OTHERS``.

    Where even these make no block they are left out, as the incomplete end of any text is.
    """
    texts: dict[str, _Text] = {}

    def add(name: str, text: _Text) -> None:
        texts[name] = texts.get(name, _Text()) + text

    for name, text in each:
        add(name, text)
    for name in [name for name in texts if texts[name].tokens < 2 * block_length]:
        add(OTHERS, texts.pop(name))
    others = texts.get(OTHERS)
    if len(texts) > 1 and others and others.tokens < block_length and not others.examples:
        del texts[OTHERS]
    return texts
