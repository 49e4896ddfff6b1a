"""Tokenizers: Hugging Face's ``tokenizers`` around a tokenizer.json."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.files import encodable
from minipuzzle.data.tokenizer_files import TokenizerFiles, read_tokenizer
from minipuzzle.data.tokenizer_json import reported
from minipuzzle.errors import UserError

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What a tokenizer is read from: all JSON objects, so no link leads to anything else."""

END_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")
SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Where decoding takes the space away, for tokenizers that split words at punctuation; in
transformers' order.
"""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
PIECES_AT_ONCE = 256
CHARACTERS_AT_ONCE = 2_000_000
PIECE = 100_000
"""Characters of the pieces that a longer document is encoded in: ``tokenizers`` needs over 100
bytes of memory a token while it encodes.
"""


class Tokenizer:
    """Text to tokens and back. ``eos_id`` ends each document, ``bos_id`` (or None) begins one;
    ``ends`` are all tokens that end what a model writes; ``names`` the special tokens by attribute;
    ``vocab_size`` is one more than the highest token; ``fingerprint`` changes with what it gives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = read_tokenizer(folder)
        self._tokenizer = files.tokenizer
        self.names = files.names
        self.cleans = files.cleans
        self.fingerprint = files.fingerprint
        self.vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(self.vocabulary.values(), default=-1)
        self.bos_id = self._special("bos_token", files.names)
        self.eos_id = self._find_eos(files)
        self.ends = frozenset([self.eos_id, *files.ends])

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """The tokenizer in a checkpoint's folder. Raises: UserError where there is none."""
        return Tokenizer(folder)

    def encode_documents(self, documents: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """The tokens of each document [n] uint32, the end token last."""
        end = np.array([self.eos_id], dtype=np.uint32)
        parts: list[NDArray[np.uint32]] = []
        for batch in _batches(piece for document in documents for piece in self._pieces(document)):
            with reported(self.folder / "tokenizer.json"):
                encodings = self._tokenizer.encode_batch_fast(
                    [text for text, _ in batch], add_special_tokens=False
                )
            for (_, last), encoding in zip(batch, encodings, strict=True):
                parts.append(np.asarray(encoding.ids, dtype=np.uint32))
                if last:
                    yield np.concatenate([*parts, end])
                    parts = []

    def encode_following(self, texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """As ``encode_documents``, of texts that follow another one directly: without the space
        that some tokenizers put before the first word of a text.
        """
        alone = self._ids("a")
        if self.decode(alone + alone) == "aa":
            yield from self.encode_documents(texts)
            return
        for text in texts:
            (tokens,) = self.encode_documents([text])
            for before in ("\n", ".", "a"):
                begun, whole = self._ids(before), self._ids(before + text)
                if begun and whole[: len(begun)] == begun:
                    tokens = np.array([*whole[len(begun) :], self.eos_id], dtype=np.uint32)
                    break
            yield tokens

    def encode(self, text: str, *, special_tokens: bool) -> list[int]:
        """The tokens of a text; ``special_tokens`` also those that tokenizer.json puts around one,
        such as a first <s>.

        Raises: UserError for half a character, or a text that the tokenizer has no tokens for.
        """
        self._check_unicode(text)
        with reported(self.folder / "tokenizer.json"):
            return list(self._tokenizer.encode(text, add_special_tokens=special_tokens).ids)

    def encode_marked(
        self, text: str, spans: Iterable[tuple[int, int]]
    ) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """The tokens of a text [n] uint32, without any around it, and which of them have characters
        in one of ``spans`` [n] bool: as transformers marks the assistant's tokens.

        Raises: as ``encode``.
        """
        self._check_unicode(text)
        with reported(self.folder / "tokenizer.json"):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        marked = np.zeros(len(encoding.ids), dtype=bool)
        for start, stop in spans:
            at = [t for c in (start, stop - 1) if (t := encoding.char_to_token(c)) is not None]
            if len(at) < 2:  # a character without a token at an end: look between
                tokens = map(encoding.char_to_token, range(start, stop))
                at = [token for token in tokens if token is not None]
            if at:
                marked[at[0] : at[-1] + 1] = True
        return np.asarray(encoding.ids, dtype=np.uint32), marked

    @property
    def added(self) -> list[str]:
        """The tokens that stand beside the words of the vocabulary, such as <|im_end|>."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    def decode(self, ids: Iterable[int], *, special_tokens: bool = True) -> str:
        """The text of tokens, with the special ones or without."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=not special_tokens))
        if self.cleans:
            for spaced in SPACED:
                text = text.replace(spaced, spaced.strip())
        return text

    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that ``encode`` puts before and behind a text."""
        inner, whole = (self.encode("a", special_tokens=special) for special in (False, True))
        first = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), 0)
        return whole[:first], whole[first + len(inner) :]

    @property
    def splits_special(self) -> bool:
        """Whether special tokens that stand in a text are split as other words are."""
        return bool(self._tokenizer.encode_special_tokens)

    def as_json(self) -> dict[str, Any]:
        """tokenizer.json with everything that the other files change."""
        return dict(json.loads(self._tokenizer.to_str()))

    def is_byte(self, token: int) -> bool:
        """Whether a token is one byte of a character, such as <0x0A>, whose neighbours decide what
        it means.
        """
        return bool(_BYTE.fullmatch(self._tokenizer.id_to_token(token) or ""))

    def copy_to(self, folder: Path) -> None:
        """Put the tokenizer's files into a checkpoint's folder."""
        for name in FILES:
            file = self.folder / name
            if file.is_file():
                shutil.copyfile(file, folder / name)

    def _pieces(self, document: str) -> Iterator[tuple[str, bool]]:
        """Pieces of a document, whose tokens joined are the tokens of the whole, and whether it is
        the last.
        """
        start = 0
        while len(document) - start > PIECE:
            cut = self._clean_cut(document, start)
            if cut is None:
                break
            yield document[start:cut], False
            start = cut
        yield document[start:], True

    def _clean_cut(self, document: str, start: int) -> int | None:
        """Where white space begins that no token reaches across, or None where the tokenizer does
        not allow a cut.
        """
        for space in (" ", "\n"):
            cut = start + PIECE
            for _ in range(32):
                cut = document.rfind(space, start, cut)
                if cut <= start:
                    break
                before, after = document[max(start, cut - 200) : cut], document[cut : cut + 200]
                if self._ids(before) + self._ids(after) == self._ids(before + after):
                    return cut
        return None

    @staticmethod
    def _check_unicode(text: str) -> None:
        if not encodable(text):
            raise UserError(
                "The text is not Unicode.",
                got="a surrogate without its pair",
                allowed="UTF-8",
                next="Write it in UTF-8.",
            )

    def _ids(self, text: str) -> list[int]:
        return self.encode(text, special_tokens=False)

    def _find_eos(self, files: TokenizerFiles) -> int:
        named = self._special("eos_token", files.names)
        if named is not None:
            return named
        known = [n for n in files.ends if n < self.vocab_size]
        known += [n for name in END_NAMES if (n := self._tokenizer.token_to_id(name)) is not None]
        if not known:
            raise UserError(
                "The tokenizer has no end-of-document token.",
                got=self.folder,
                allowed="eos_token in tokenizer_config.json",
                next="Add it.",
            )
        return known[0]

    def _special(self, key: str, names: dict[str, str]) -> int | None:
        return self._tokenizer.token_to_id(names[key]) if key in names else None


def _batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if len(batch) == PIECES_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE (``tokenizers.Tokenizer``) with <|endoftext|> as token 0 and <|pad|> as
    token 1.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer
