"""Text after a prompt, from a checkpoint with its tokenizer, as it comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.generation import Sampling, stream
from minipuzzle.kernels import choose
from minipuzzle.model import load_model
from minipuzzle.runs.device import pick_device, pick_dtype
from minipuzzle.runs.job import check_tokenizer, open_checkpoint

log = logging.getLogger(__name__)

KEPT = 64
"""Tokens that a new one is decoded with."""
CLEANED = 32
"""Characters: spaces before punctuation are taken away by what comes at most so far behind them."""


def run_generate(
    path: Path, prompt: str, *, tokens: int, sampling: Sampling, device: str, dtype: str
) -> Iterator[str]:
    """Pieces of text that the checkpoint adds to ``prompt``, up to ``tokens`` tokens or the end of
    the text.

    Raises: UserError where the checkpoint or its tokenizer cannot be read, or ``tokens`` is below
    1.
    """
    if tokens < 1:
        raise UserError(
            "There is nothing to generate.",
            got=f"{tokens} tokens",
            allowed="at least 1",
            next="Change generate.tokens.",
        )
    checkpoint = open_checkpoint(path)
    words = Tokenizer.load(path)
    check_tokenizer(words, checkpoint)
    where = pick_device(device)
    model = load_model(
        checkpoint, device=where, dtype=pick_dtype(dtype, where), kernels=choose(where)
    ).eval()
    start = words.eos_id if words.bos_id is None else words.bos_id
    begun = words.encode(prompt, special_tokens=True) or [start]
    text, count, started, first = Text(words, begun), 0, time.perf_counter(), 0.0
    for (token,) in stream(model, [begun], tokens, sampling=sampling, ends=words.ends):
        count, first = count + 1, first or time.perf_counter() - started
        if token is not None and token not in words.ends:
            yield text.add(token)
    yield text.rest() + "\n"
    rate = (count - 1) / max(time.perf_counter() - started - first, 1e-9)
    log.info(
        f"{len(begun)} tokens read, {count} generated: the first after {first:.2f} s, then"
        f" {rate:,.1f} tokens/s"
    )


class Text:
    """What tokens add to a prompt's text, a piece at a time: all pieces together are the text of
    prompt and tokens, without that of the prompt. What later tokens may still change is held
    back.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt)
        self._shown = len(tokenizer.decode(self._tokens))
        self._forget(tokenizer.decode(self._tokens))

    def add(self, token: int) -> str:
        """What can be shown after one more token."""
        self._tokens.append(token)
        if self._tokenizer.is_byte(
            token
        ):  # a byte that makes no character takes those before it along
            return ""
        text = self._tokenizer.decode(self._tokens)
        settled = len(text.rstrip("\ufffd"))  # of a character whose last byte is to come
        piece = text[self._shown : max(self._shown, settled - CLEANED * self._tokenizer.cleans)]
        self._shown += len(piece)
        self._forget(text)
        return piece

    def rest(self) -> str:
        """What was held back to the end."""
        return self._tokenizer.decode(self._tokens)[self._shown :]

    def _forget(self, text: str) -> None:
        """Keep the last tokens only, else each token would decode all before it; where their text
        is the end of the whole's behind what a first token loses, such as its space.
        """
        if (
            len(self._tokens) < 2 * KEPT
            or self._tokenizer.is_byte(self._tokens[-1])
            or self._tokenizer.cleans
        ):
            return  # which apostrophes lose their spaces depends on all before
        for start in range(len(self._tokens) - KEPT, len(self._tokens) - KEPT + 8):
            if self._tokenizer.is_byte(self._tokens[start]):
                continue
            part = self._tokenizer.decode(self._tokens[start:])
            hidden = len(text) - self._shown
            first = len(self._tokenizer.decode(self._tokens[start : start + 8]))
            if text.endswith(part[first:]) and len(part) - first > hidden:
                self._tokens, self._shown = self._tokens[start:], len(part) - hidden
                return
