"""Text after a prompt, from a checkpoint with its tokenizer, as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.generation import Sampling, stream
from minipuzzle.kernels import choose
from minipuzzle.model import load_model
from minipuzzle.stages.device import pick_device, pick_dtype
from minipuzzle.stages.job import check_tokenizer, say, say_notes


def run_generate(
    path: Path, prompt: str, *, tokens: int, sampling: Sampling, device: str, dtype: str
) -> Iterator[str]:
    """Pieces of text that the checkpoint adds to ``prompt``, up to ``tokens`` tokens or the end of the text.

    Raises: UserError where the checkpoint or its tokenizer cannot be read, or ``tokens`` is below 1.
    """
    if tokens < 1:
        raise UserError("There is nothing to generate.", got=f"{tokens} tokens", allowed="at least 1", next="Change --tokens.")
    checkpoint = Checkpoint.open(path)
    say_notes(checkpoint)
    words = Tokenizer.load(path)
    check_tokenizer(words, checkpoint)
    where = pick_device(device)
    model = load_model(checkpoint, device=where, dtype=pick_dtype(dtype, where), kernels=choose(where)).eval()
    start = words.eos_id if words.bos_id is None else words.bos_id
    begun = words.encode(prompt, special_tokens=True) or [start]
    text, count, started, first = Text(words), 0, time.perf_counter(), 0.0
    for (token,) in stream(model, [begun], tokens, sampling=sampling, end=words.eos_id):
        count, first = count + 1, first or time.perf_counter() - started
        if token is not None and token != words.eos_id:
            yield text.add(token)
    yield text.rest() + "\n"
    rate = (count - 1) / max(time.perf_counter() - started - first, 1e-9)
    say(f"{len(begun)} tokens read, {count} said: the first after {first:.2f} s, then {rate:,.1f} tokens/s")


class Text:
    """Tokens as text, a piece at a time: a character is held back until its last token is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._shown = 0

    def add(self, token: int) -> str:
        """What can be shown after one more token."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        if text.endswith("\ufffd"):
            return ""
        piece = text[self._shown :]
        self._shown = len(text)
        if piece.endswith("\n"):  # else each token would decode all before it
            self._tokens, self._shown = [], 0
        return piece

    def rest(self) -> str:
        """What was held back to the end."""
        return self._tokenizer.decode(self._tokens)[self._shown :]
