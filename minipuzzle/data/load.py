"""The token blocks of a text file or folder: encoded, by domain where that is asked, and kept on
disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minipuzzle.artifacts import write_atomic
from minipuzzle.data.blocks import Domain, TokenBlocks, narrow, pack
from minipuzzle.data.documents import file_documents, read_documents, text_name
from minipuzzle.data.files import data_files, reading, say_left_out
from minipuzzle.data.tokenizer import Tokenizer
from minipuzzle.errors import UserError

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
