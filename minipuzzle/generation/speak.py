"""Prompts in, tokens out, as they come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.generation.runtime import Runtime
from minipuzzle.generation.sampling import GREEDY, Picker
from minipuzzle.generation.step import TOKENS_AT_ONCE, Decoder, grows, prefill
from minipuzzle.machine import available_bytes, free_gpu_bytes
from minipuzzle.memory.inference import cache_bytes
from minipuzzle.model import HybridLM
from minipuzzle.settings import Sampling


@torch.no_grad()
def stream(
    model: HybridLM,
    prompts: Sequence[Sequence[int]] | Tensor,
    count: int,
    *,
    sampling: Sampling = GREEDY,
    ends: Collection[int] = (),
    first: int = 0,
    of: int = 0,
    state_dtype: torch.dtype = torch.float32,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> Iterator[list[int | None]]:
    """Up to ``count`` times the next token of every prompt, None for rows that have generated one
    of ``ends`` before.

    ``prompts`` are lists of tokens, of any lengths, or [b, s]. Keys, values and convolution windows
    are cached in the model's dtype, Mamba states in ``state_dtype``; prompts are read
    ``tokens_at_once`` at a time. With ``of`` they are those from the ``first`` on of as many
    (``Picker``). Raises: UserError for an empty prompt, for unequal ones that go past the context
    of a "dynamic" RoPE, and for a batch that does not fit the device.
    """
    lengths = [len(p) for p in prompts]
    capacity = max(lengths, default=0) + count
    _check(model, lengths, capacity, state_dtype)
    try:
        cache = model.new_cache(len(prompts), capacity, state_dtype)
        decoder = Decoder(model, cache, len(prompts)) if count > 1 else None
        logits = prefill(model, cache, prompts, tokens_at_once)
    except torch.cuda.OutOfMemoryError as error:
        raise _too_large(lengths, capacity, "what its memory holds") from error
    if decoder is not None:
        decoder.start(lengths)
    pick, done = Picker(sampling, first, of), [False] * len(prompts)
    for i in range(count):
        tokens = pick(logits)
        generated = [
            None if over else token for over, token in zip(done, tokens.tolist(), strict=True)
        ]
        yield generated
        done = [over or token in ends for over, token in zip(done, generated, strict=True)]
        if all(done):
            return
        if decoder is not None and i + 1 < count:
            logits = decoder.step(tokens)


def generate(
    model: HybridLM,
    prompts: Sequence[Sequence[int]] | Tensor,
    count: int,
    *,
    sampling: Sampling = GREEDY,
    ends: Collection[int] = (),
    first: int = 0,
    of: int = 0,
) -> list[list[int]]:
    """What ``stream`` says after each prompt, one of ``ends`` included."""
    answers: list[list[int]] = [[] for _ in prompts]
    steps = stream(model, prompts, count, sampling=sampling, ends=ends, first=first, of=of)
    for step in steps:
        for answer, token in zip(answers, step, strict=True):
            answer += [] if token is None else [token]
    return answers


def _check(model: HybridLM, lengths: list[int], capacity: int, state_dtype: torch.dtype) -> None:
    if not all(lengths) or not lengths:
        raise UserError(
            "A prompt has no tokens.",
            got=lengths,
            allowed="at least one token each",
            next="Write a prompt.",
        )
    if grows(model, capacity) and len(set(lengths)) > 1:
        raise UserError(
            "Prompts of different lengths cannot go past this model's context together: its RoPE"
            " depends on the length.",
            got=f"{min(lengths)} to {max(lengths)} tokens and {capacity - max(lengths)} new ones",
            allowed=f"{model.architecture.max_positions} tokens, or prompts of one length",
            next="Ask one prompt at a time.",
        )
    weights = model.embeddings.weight
    runtime = Runtime(dtype=weights.dtype, state_dtype=state_dtype, fast=False)
    needed = cache_bytes(model.architecture, len(lengths), capacity, runtime)
    free = free_gpu_bytes(weights.device) if weights.device.type == "cuda" else available_bytes()
    if needed > free:
        raise _too_large(
            lengths,
            capacity,
            f"{free / 1e9:.1f} GB, and the caches of these need {needed / 1e9:,.1f}",
        )


def _too_large(lengths: list[int], capacity: int, allowed: str) -> UserError:
    return UserError(
        "The prompts and what is generated do not fit the device.",
        allowed=allowed,
        got=f"{len(lengths)} of up to {max(lengths):,} and {capacity - max(lengths):,} new tokens",
        next="Take fewer or shorter prompts, or generate fewer tokens.",
    )
