"""What a model is worth, alone and beside its teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minipuzzle.arch import Selection
from minipuzzle.data import TokenBlocks
from minipuzzle.model import HybridLM, StreamedLM, mixed_precision, reshard
from minipuzzle.model.branches import Branches
from minipuzzle.model.head import matmul_fp32
from minipuzzle.progress import SILENT, Progress
from minipuzzle.shapes import Float, Int

CHUNK_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Means over next-token predictions. ``loss`` and ``kl`` in nats a token; ``kl`` and
    ``agreement`` (share of tokens whose most likely successor is the teacher's) are None without a
    teacher. ``domains`` has the same of each domain of the text, where it has several; the whole is
    their mean over tokens.
    """

    tokens: int
    loss: float
    next_token_accuracy: float
    agreement: float | None = None
    kl: float | None = None
    domains: dict[str, Metrics] = field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)

    def bits_per_byte(self, bytes_per_token: float) -> float:
        """The loss in bits per byte of text, comparable between tokenizers."""
        return self.loss / math.log(2) / bytes_per_token


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A teacher's hidden states before its head at all positions but the last of each block."""

    hidden: Float[Tensor, "blocks s d"]
    head_weight: Float[Tensor, "v d"]


@torch.no_grad()
def measure(
    model: HybridLM,
    blocks: TokenBlocks,
    *,
    batch: int = 8,
    teacher: HybridLM | Answers | None = None,
    progress: Progress = SILENT,
) -> Metrics:
    """Evaluate on every block of a text; ``progress`` is told of blocks. In a text with ``spans``
    the predictions of the tokens that carry a loss count, and no document sees another one.

    With ``teacher`` KL(teacher || model) and the agreement are measured too; its ``Answers`` to
    this text in its place spare its forward for each of many candidates. Products are BF16's on
    CUDA, logits and what follows FP32; all is FP32 on a CPU. That is so for teacher and model
    alike, on one GPU and on many. Source of the two ranking metrics: arXiv:2504.03624 (next-token
    accuracy, agreement with the 56B's greedy token).
    """
    return _measured(model, None, blocks, batch, teacher, progress)[0]


def measure_each(
    model: HybridLM | StreamedLM,
    selections: Sequence[Selection],
    blocks: TokenBlocks,
    *,
    batch: int = 8,
    teacher: Answers | None = None,
) -> list[Metrics]:
    """What ``measure`` says of the model under the masks of each selection, in one pass over the
    text: what selections share of their first blocks is computed once (``model.branches``).

    Raises: UserError for a selection that the architecture does not allow.
    """
    return _measured(model, model.branches(selections), blocks, batch, teacher, SILENT)


def _measured(
    model: HybridLM | StreamedLM,
    branches: Branches | None,
    blocks: TokenBlocks,
    batch: int,
    teacher: HybridLM | Answers | None,
    progress: Progress,
) -> list[Metrics]:
    """Of each branch; of the model itself without any."""
    parts = blocks.by_domain() or [("", blocks)]
    device = model.device
    texts = _Texts([part for _, part in parts], batch, device)
    count = 1 if branches is None else branches.size
    totals = torch.zeros(len(parts), count, 4, dtype=torch.float64, device=device)

    @lru_cache(maxsize=1)
    def known(number: int) -> tuple[Tensor | slice, Tensor, Tensor | None]:
        """(the predictions that count, what follows there, the teacher's states there where it is
        another model).
        """
        text = texts[number]
        other = None
        if teacher is not None and teacher is not model:
            other = _answers(teacher, text)[text.rows]
        return text.rows, text.tokens[:, 1:].reshape(-1)[text.rows], other

    def take(number: int, selection: int, hidden: Tensor) -> None:
        rows, targets, other = known(number)
        mine = hidden[:, :-1].flatten(0, 1)[rows]
        sums = totals[texts.places[number][0], selection]
        _compare(sums, model, mine, targets, teacher, mine if teacher is model else other)

    with mixed_precision(device):
        if branches is not None:
            model.hidden_states_of_texts(branches, texts, take)
        elif isinstance(model, HybridLM):
            for number, text in enumerate(texts):
                known(number)
                take(number, 0, model.hidden_states(text.tokens, text.documents))
                progress.advance(len(text.tokens))
    for measured in (model, teacher):  # in the middle of a training, for one
        if isinstance(measured, HybridLM):
            reshard(measured)
    alone, counts = teacher is None, [predictions(part) for _, part in parts]
    return [
        replace(
            _metrics(sums.sum(0), sum(counts), alone),
            domains={
                name: _metrics(found, count, alone)
                for (name, _), found, count in zip(parts, sums, counts, strict=True)
                if name
            },
        )
        for sums in totals.transpose(0, 1)
    ]


class _Text(NamedTuple):
    """Blocks from ``start`` on of the whole text: ``tokens`` [b, s], ``documents`` [b, s] that do
    not see each other, and which of b (s - 1) predictions count.
    """

    tokens: Tensor
    documents: Tensor | None
    rows: Tensor | slice
    start: int


class _Texts(Sequence[_Text]):
    """The blocks of all ``parts``, ``batch`` of one part at once, made on the ``device`` when asked
    for. ``places`` are the part of each, and where it starts there.
    """

    def __init__(self, parts: Sequence[TokenBlocks], batch: int, device: torch.device) -> None:
        self.parts, self.batch, self.device = parts, batch, device
        self.before = [0, *accumulate(len(part) for part in parts)]
        self.places = [
            (number, start)
            for number, part in enumerate(parts)
            for start in range(0, len(part), batch)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        number, start = self.places[index]
        part, stop = self.parts[number], start + self.batch
        tokens = torch.from_numpy(part.tokens[start:stop].astype("int64")).to(self.device)
        first = self.before[number] + start
        if not part.spans:
            return _Text(tokens, None, slice(None), first)
        told = torch.from_numpy(part.documents[start:stop]).to(self.device)
        return _Text(tokens, told // 2, (told[:, 1:] % 2 == 1).flatten(), first)


def _compare(
    totals: Tensor,
    model: HybridLM | StreamedLM,
    hidden: Float[Tensor, "n d"],
    targets: Int[Tensor, " n"],
    teacher: HybridLM | Answers | None,
    other: Float[Tensor, "n t"] | None,
) -> None:
    """Add to ``totals`` [4] what a model's last hidden states say of the targets, beside the
    teacher's.
    """
    for at in range(0, len(targets), CHUNK_TOKENS):
        part = slice(at, at + CHUNK_TOKENS)
        log_p = torch.log_softmax(
            matmul_fp32(hidden[part], model.head_weight.to(hidden.dtype).t()), -1
        )
        best = log_p.argmax(-1)
        totals[0] -= log_p.gather(1, targets[part, None]).double().sum()
        totals[1] += (best == targets[part]).sum()
        if teacher is not None and other is not None:
            log_t = log_p
            if teacher is not model:
                log_t = torch.log_softmax(
                    matmul_fp32(other[part], teacher.head_weight.to(other.dtype).t()), -1
                )
            totals[2] += (best == log_t.argmax(-1)).sum()
            totals[3] += (log_t.exp() * (log_t - log_p)).double().sum()


def _metrics(sums: Tensor, count: int, alone: bool) -> Metrics:
    loss, right, agreeing, kl = (sums / count).tolist()
    return Metrics(
        tokens=count,
        loss=loss,
        next_token_accuracy=right,
        agreement=None if alone else agreeing,
        kl=None if alone else kl,
    )


@torch.no_grad()
def answers(model: HybridLM | StreamedLM, blocks: TokenBlocks, batch: int = 8) -> Answers:
    """What the model says to a text, computed once: for ``measure``."""
    device, architecture = model.device, model.architecture
    texts = _Texts([blocks], batch, device)
    hidden: list[Tensor] = []

    def take(number: int, selection: int, states: Tensor) -> None:
        if not hidden:
            shape = len(blocks), blocks.block_length - 1, architecture.hidden
            hidden.append(states.new_empty(shape))
        start = texts[number].start
        hidden[0][start : start + len(states)] = states[:, :-1]

    with mixed_precision(device):
        whole = model.branches([Selection.everything(architecture)])
        model.hidden_states_of_texts(whole, texts, take)
    return Answers(hidden=hidden[0], head_weight=model.head_weight)


@torch.no_grad()
def tokens_per_second(model: HybridLM, tokens: Int[Tensor, "b s"], repeats: int = 5) -> float:
    """Median speed of a forward pass over ``tokens`` up to the head's input, after one
    warm-up.
    """
    seconds = []
    for _ in range(repeats + 1):
        _synchronize(tokens)
        start = time.perf_counter()
        with mixed_precision(tokens.device):
            model.hidden_states(tokens)
        _synchronize(tokens)
        seconds.append(time.perf_counter() - start)
    return tokens.numel() / sorted(seconds[1:])[repeats // 2]


def predictions(blocks: TokenBlocks) -> int:
    """How many predictions ``measure`` is a mean of."""
    following = blocks.documents[:, 1:]
    return int((following % 2).sum()) if blocks.spans else int(following.size)


def _answers(teacher: HybridLM | Answers, text: _Text) -> Tensor:
    """[b (s - 1), d]."""
    if isinstance(teacher, Answers):
        return teacher.hidden[text.start : text.start + len(text.tokens)].flatten(0, 1)
    return teacher.hidden_states(text.tokens, text.documents)[:, :-1].flatten(0, 1)


def _synchronize(tokens: Tensor) -> None:
    if tokens.is_cuda:
        torch.cuda.synchronize()
