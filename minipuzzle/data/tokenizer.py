"""Tokenizers: Hugging Face's ``tokenizers`` around a tokenizer.json."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.artifacts import read_json
from minipuzzle.errors import UserError

END_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")
PIECES_AT_ONCE = 256
CHARACTERS_AT_ONCE = 2_000_000
PIECE = 100_000
"""Characters of the pieces that a longer document is encoded in: ``tokenizers`` needs over 100 bytes of memory a token
while it encodes."""


class Tokenizer:
    """Text to tokens and back. ``eos_id`` ends each document, ``bos_id`` (or None) begins one; ``vocab_size`` is one more
    than the highest token; ``fingerprint`` is the start of the SHA-256 of tokenizer.json."""

    def __init__(self, folder: Path) -> None:
        import tokenizers

        self.folder = folder
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                "The checkpoint has no tokenizer.", got=folder, allowed="a folder with a tokenizer.json",
                next="Copy the tokenizer files of the model into that folder.",
            )  # fmt: skip
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises nothing narrower
            raise UserError(f"{file} cannot be read.", got=error, allowed="a tokenizer.json of Hugging Face tokenizers",
                            next="Copy it again from the model.") from error  # fmt: skip
        # a file may ask for both, which would cut documents or fill them with padding
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.eos_id = self._find_eos()
        bos = self._named("bos_token")
        self.bos_id: int | None = None if bos is None else self._tokenizer.token_to_id(bos)

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """The tokenizer in a checkpoint's folder. Raises: UserError where there is none."""
        return Tokenizer(folder)

    def encode_documents(self, documents: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """The tokens of each document [n] uint32, the end token last."""
        end = np.array([self.eos_id], dtype=np.uint32)
        parts: list[NDArray[np.uint32]] = []
        for batch in _batches(piece for document in documents for piece in self._pieces(document)):
            encodings = self._tokenizer.encode_batch_fast([text for text, _ in batch], add_special_tokens=False)
            for (_, last), encoding in zip(batch, encodings, strict=True):
                parts.append(np.asarray(encoding.ids, dtype=np.uint32))
                if last:
                    yield np.concatenate([*parts, end])
                    parts = []

    def encode(self, text: str, *, special_tokens: bool) -> list[int]:
        """The tokens of a text; ``special_tokens`` also those that tokenizer.json puts around one, such as a first <s>."""
        return list(self._tokenizer.encode(text, add_special_tokens=special_tokens).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def copy_to(self, folder: Path) -> None:
        """Put the tokenizer's files into a checkpoint's folder."""
        for pattern in ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template*"):
            for file in self.folder.glob(pattern):
                shutil.copy2(file, folder / file.name)

    def _pieces(self, document: str) -> Iterator[tuple[str, bool]]:
        """Pieces of a document, whose tokens joined are the tokens of the whole, and whether it is the last."""
        start = 0
        while len(document) - start > PIECE:
            cut = self._clean_cut(document, start)
            if cut is None:
                break
            yield document[start:cut], False
            start = cut
        yield document[start:], True

    def _clean_cut(self, document: str, start: int) -> int | None:
        """Where white space begins that no token reaches across, or None where the tokenizer does not allow a cut."""
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

    def _ids(self, text: str) -> list[int]:
        return self.encode(text, special_tokens=False)

    def _find_eos(self) -> int:
        named = self._named("eos_token")
        for name in ([named] if named else []) + list(END_NAMES):
            token = self._tokenizer.token_to_id(name)
            if token is not None:
                return int(token)
        raise UserError("The tokenizer has no end-of-document token.", got=self.folder,
                        allowed="eos_token in tokenizer_config.json", next="Add it.")  # fmt: skip

    def _named(self, what: str) -> str | None:
        file = self.folder / "tokenizer_config.json"
        config: dict[str, Any] = read_json(file) if file.is_file() else {}
        named = config.get(what)
        return named.get("content") if isinstance(named, dict) else named


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
    """A byte-level BPE (``tokenizers.Tokenizer``) with <|endoftext|> as token 0 and <|pad|> as token 1."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>", "<|pad|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer
