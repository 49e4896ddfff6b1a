"""Tokenizers: Hugging Face's ``tokenizers`` around a tokenizer.json."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.errors import UserError

END_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")
ENCODE_AT_ONCE = 256


class Tokenizer:
    """Text to tokens and back. ``eos_id`` ends each document."""

    def __init__(self, folder: Path) -> None:
        import tokenizers

        self.folder = folder
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                "The checkpoint has no tokenizer.", got=folder, allowed="a folder with a tokenizer.json",
                next="Copy the tokenizer files of the model into that folder.",
            )  # fmt: skip
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self.fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos_id = self._find_eos()

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """The tokenizer in a checkpoint's folder. Raises: UserError where there is none."""
        return Tokenizer(folder)

    def encode_documents(self, documents: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """The tokens of each document, the end token last."""
        iterator = iter(documents)
        while chunk := list(islice(iterator, ENCODE_AT_ONCE)):
            for encoding in self._tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
                yield np.asarray([*encoding.ids, self.eos_id], dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def copy_to(self, folder: Path) -> None:
        """Put the tokenizer's files into a checkpoint's folder."""
        for pattern in ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template*"):
            for file in self.folder.glob(pattern):
                shutil.copy2(file, folder / file.name)

    def _find_eos(self) -> int:
        config: dict[str, Any] = {}
        if (self.folder / "tokenizer_config.json").is_file():
            config = json.loads((self.folder / "tokenizer_config.json").read_text())
        named = config.get("eos_token")
        named = named.get("content") if isinstance(named, dict) else named
        for name in ([named] if named else []) + list(END_NAMES):
            token = self._tokenizer.token_to_id(name)
            if token is not None:
                return int(token)
        raise UserError("The tokenizer has no end-of-document token.", got=self.folder,
                        allowed="eos_token in tokenizer_config.json", next="Add it.")  # fmt: skip


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
