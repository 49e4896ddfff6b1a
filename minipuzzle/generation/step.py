"""A forward with a cache: the prompt in pieces that bound its activations, then one token a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from minipuzzle.kernels.pointwise import replayed
from minipuzzle.model import Cache, HybridLM
from minipuzzle.model.head import matmul_fp32
from minipuzzle.shapes import Float32, Int

TOKENS_AT_ONCE = 16384
"""Of prompts in one forward: enough for full matrix products, and a bound of the activations
whatever the context.
"""
WARM_UPS = 3


def prefill(
    model: HybridLM, cache: Cache, prompts: Sequence[Sequence[int]] | Tensor, tokens_at_once: int
) -> Float32[Tensor, "b v"]:
    """Logits after each prompt; the cache then holds all of them.

    Rows next to each other go together where they are equally long, so there is no padding that a
    state would have to forget; the others go one after the other.
    """
    device = model.device
    logits = torch.empty(len(prompts), model.architecture.vocab_size, device=device)
    for start, stop in _groups([len(p) for p in prompts], tokens_at_once):
        rows, part = torch.as_tensor(prompts[start:stop], device=device), cache.part(start, stop)
        for piece in rows.split(piece_length(model, rows.shape[1], tokens_at_once), 1):
            last = _last_states(model, piece, part)
            part.length += piece.shape[1]
        logits[start:stop] = _logits(model, last)
    return logits


def piece_length(model: HybridLM, prompt: int, tokens_at_once: int) -> int:
    """Tokens of a row in one forward. All of them under a RoPE whose speeds depend on the length
    and has to change them.
    """
    return prompt if grows(model, prompt) else min(prompt, tokens_at_once)


def grows(model: HybridLM, length: int) -> bool:
    """Whether a block treats sequences of ``length`` tokens otherwise than shorter ones: under a
    RoPE whose speeds depend on the length.
    """
    return any(block.depends_on_length(length) for block in model.architecture.blocks)


class Decoder:
    """One token a row at a time. On CUDA a step is captured once as a graph: launched one by one,
    kernels wait for Python.

    Make it before the prefill, whose cache it shares and upsets.
    """

    def __init__(self, model: HybridLM, cache: Cache, batch: int) -> None:
        device = model.device
        self.model = model
        self.cache = cache
        self.rows = cache.decode_rows([cache.capacity - 1] * batch, device)
        self.tokens = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.logits = torch.empty(0)
        self._graph: torch.cuda.CUDAGraph | None = None
        if (
            device.type == "cuda"
            and not torch.is_autocast_enabled("cuda")
            and not grows(model, cache.capacity)
        ):
            self._capture()

    def start(self, lengths: Sequence[int]) -> None:
        """Row i goes on after its first ``lengths[i]`` tokens."""
        places = torch.tensor(lengths, device=self.tokens.device)
        self.rows.positions.copy_(places)
        self.rows.lengths.copy_(places + 1)
        if self._graph is None:
            self.cache.length = max(lengths)

    def step(self, tokens: Int[Tensor, " b"]) -> Float32[Tensor, "b v"]:
        """Logits after one more token a row. The next step overwrites
        them.
        """
        self.tokens.copy_(tokens[:, None])
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run()
            self.rows.advance()
            self.cache.length += 1
        return self.logits

    def _run(self) -> None:
        self.logits = _logits(self.model, _last_states(self.model, self.tokens, self.cache))

    def _capture(self) -> None:
        side = _side_stream(self.tokens.device)
        side.wait_stream(torch.cuda.current_stream())
        with replayed(), torch.cuda.stream(side):
            for _ in range(WARM_UPS):  # kernels are compiled and tuned outside of the graph
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with replayed(), torch.cuda.graph(self._graph, stream=side):
            self._run()
            self.rows.advance()


@lru_cache(maxsize=64)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The same one for all captures: cuBLAS keeps 32 MiB for each stream that it has worked on."""
    return torch.cuda.Stream(device)


def _last_states(model: HybridLM, tokens: Tensor, cache: Cache) -> Tensor:
    return model.run_blocks(model.embed(tokens), None, 0, len(model.blocks), cache)[:, -1]


def _logits(model: HybridLM, last: Tensor) -> Tensor:
    states = model.final_norm(last)
    return matmul_fp32(states, model.head_weight.to(states.dtype).t())


def _groups(lengths: list[int], tokens_at_once: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of neighbouring rows of one length, at most ``tokens_at_once`` tokens or one
    row.
    """
    start = 0
    for length, same in groupby(lengths):
        end, step = start + len(list(same)), max(1, tokens_at_once // length)
        for first in range(start, end, step):
            yield first, min(first + step, end)
        start = end
