"""How fast a model reads prompts and goes on, and how much memory that took."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from minipuzzle.generation.step import Decoder, prefill
from minipuzzle.model import Cache, HybridLM
from minipuzzle.progress import SILENT, Progress
from minipuzzle.settings import Generation


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of the whole batch. ``rows_read`` of its prompts and ``steps`` of its tokens were
    run; where time was up before, ``first_token_s`` and ``decode_s`` are those of all, in
    proportion.

    ``peak_bytes`` and ``reserved_bytes`` are what PyTorch allocated and held at most, None on a
    CPU.
    """

    first_token_s: float
    decode_s: float
    rows_read: int
    steps: int
    peak_bytes: int | None
    reserved_bytes: int | None


@torch.no_grad()
def measure(
    model: HybridLM,
    work: Generation,
    *,
    state_dtype: torch.dtype,
    tokens_at_once: int,
    seconds: float = float("inf"),
    progress: Progress = SILENT,
) -> Speed:
    """Read ``work.batch`` random prompts and continue them greedily, each phase for at most about
    ``seconds``.

    Not timed, as in a server: capturing the CUDA graph, and a first piece of a prompt that compiles
    and tunes kernels. ``progress`` is told of tokens. Raises: torch.cuda.OutOfMemoryError.
    """
    device = model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    vocabulary = model.architecture.vocab_size
    prompts = torch.randint(0, vocabulary, (work.batch, work.prompt), device=device)
    cache = model.new_cache(work.batch, work.prompt + work.output, state_dtype)
    decoder = Decoder(model, cache, work.batch) if work.output > 1 else None
    rows = max(1, tokens_at_once // work.prompt)
    prefill(
        model,
        cache.part(0, min(rows, work.batch)),
        prompts[:rows, : 2 * tokens_at_once],
        tokens_at_once,
    )
    tokens, first_token_s, read = _read(
        model, cache, prompts, rows, tokens_at_once, seconds, progress
    )
    decode_s, steps = 0.0, 0
    if decoder is not None:
        decode_s, steps = _decode(decoder, tokens, work, seconds, progress)
    peak = reserved = None
    if device.type == "cuda":
        peak, reserved = (
            torch.cuda.max_memory_allocated(device),
            torch.cuda.max_memory_reserved(device),
        )
    return Speed(
        first_token_s=first_token_s,
        decode_s=decode_s,
        rows_read=read,
        steps=steps,
        peak_bytes=peak,
        reserved_bytes=reserved,
    )


def _read(
    model: HybridLM,
    cache: Cache,
    prompts: Tensor,
    rows: int,
    tokens_at_once: int,
    seconds: float,
    progress: Progress,
) -> tuple[Tensor, float, int]:
    """(the first token of each row, seconds for all rows, rows read)."""
    batch, read = len(prompts), 0
    logits = torch.zeros(batch, model.architecture.vocab_size, device=prompts.device)
    started = _now(prompts.device)
    while read < batch and (read == 0 or _now(prompts.device) - started < seconds):
        stop = min(read + rows, batch)
        logits[read:stop] = prefill(
            model, cache.part(read, stop), prompts[read:stop], tokens_at_once
        )
        progress.advance((stop - read) * prompts.shape[1])
        read = stop
    tokens = logits.argmax(-1)
    return tokens, (_now(prompts.device) - started) * batch / read, read


def _decode(
    decoder: Decoder, tokens: Tensor, work: Generation, seconds: float, progress: Progress
) -> tuple[float, int]:
    """(seconds for all steps, steps taken, the first of them)."""
    steps, often = work.output - 1, 16
    decoder.start([work.prompt] * work.batch)
    started, taken = _now(tokens.device), 0
    while taken < steps and (taken < often or _now(tokens.device) - started < seconds):
        for _ in range(min(often, steps - taken)):
            tokens = decoder.step(tokens).argmax(-1)
            taken += 1
        progress.advance(often * work.batch)
    return (_now(tokens.device) - started) * steps / taken, taken


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
