"""Which questions a model answers right: where of all choices the first one is the likeliest after
the context, a byte, or beside what it is at the start of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.generation.step import TOKENS_AT_ONCE, grows, prefill
from minipuzzle.model import HybridLM, mixed_precision
from minipuzzle.model.head import matmul_fp32
from minipuzzle.progress import SILENT, Progress
from minipuzzle.questions.question import Item
from minipuzzle.shapes import Float


def right(model: HybridLM, items: Sequence[Item], progress: Progress = SILENT) -> NDArray[np.bool_]:
    """[n] bool. Products are BF16's on CUDA; ``progress`` is told of items."""
    found = np.zeros(len(items), dtype=bool)
    with mixed_precision(model.device):
        for i, item in enumerate(items):
            found[i] = compared(model, item).argmax() == 0
            progress.advance()
    return found


def compared(model: HybridLM, item: Item) -> NDArray[np.float64]:
    """[choices]: of the highest the model would say that it is right."""
    found = log_probabilities(model, item)
    if item.start is None:
        return found / item.sizes
    return found - log_probabilities(model, replace(item, context=item.start))


@torch.no_grad()
def log_probabilities(model: HybridLM, item: Item) -> NDArray[np.float64]:
    """Of each choice after the context [choices], in nats."""
    if grows(model, len(item.context) + max(map(len, item.choices))):
        return _in_rows(model, item)
    return _after_one(model, item)


def _in_rows(model: HybridLM, item: Item) -> NDArray[np.float64]:
    """Each choice with the context in a row of its own."""
    texts = [item.context + choice for choice in item.choices]
    hidden = model.hidden_states(_padded(texts, model.device))
    first = len(item.context) - 1
    return np.array(
        [
            _sum(_log_p(model, states[first : first + len(choice)]), choice)
            for choice, states in zip(item.choices, hidden, strict=True)
        ]
    )


def _after_one(model: HybridLM, item: Item) -> NDArray[np.float64]:
    """The context is read once, and what is remembered of it copied for each choice."""
    count, device = len(item.choices), model.device
    cache = model.new_cache(count, len(item.context) + max(map(len, item.choices)))
    first = prefill(model, cache.part(0, 1), [item.context], TOKENS_AT_ONCE)  # [1, v]
    for slot in cache.slots:
        for tensor in [] if slot is None else slot.tensors():
            tensor[1:] = tensor[:1]
    cache.length = len(item.context)
    hidden = model.hidden_states(_padded(item.choices, device), cache=cache)  # [4, s, d]
    start = first.log_softmax(-1)[0]
    return np.array(
        [
            float(start[choice[0]]) + _sum(_log_p(model, states[: len(choice) - 1]), choice[1:])
            for choice, states in zip(item.choices, hidden, strict=True)
        ]
    )


def _log_p(model: HybridLM, states: Float[Tensor, "s d"]) -> Tensor:
    return matmul_fp32(states, model.head_weight.to(states.dtype).t()).log_softmax(-1)


def _sum(log_p: Tensor, tokens: list[int]) -> float:
    target = torch.tensor(tokens, dtype=torch.int64, device=log_p.device)
    return float(log_p.gather(1, target[:, None]).double().sum())


def _padded(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    """[n, longest] int64: what is behind an end changes nothing before it."""
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return tokens.to(device)
