"""What a model is worth, alone and beside its teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from minipuzzle.arch import Selection
from minipuzzle.data import TokenBlocks
from minipuzzle.model import HybridLM, mixed_precision, reshard
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
    model: HybridLM,
    selections: Sequence[Selection],
    blocks: TokenBlocks,
    *,
    batch: int = 8,
    teacher: HybridLM | Answers | None = None,
    progress: Progress = SILENT,
) -> list[Metrics]:
    """What ``measure`` says of the model under the masks of each selection, in one pass over the
    text: what selections share of their first blocks is computed once (``model.branches``).

    Raises: UserError for a selection that the architecture does not allow.
    """
    return _measured(model, model.branches(selections), blocks, batch, teacher, progress)


def _measured(
    model: HybridLM,
    branches: Branches | None,
    blocks: TokenBlocks,
    batch: int,
    teacher: HybridLM | Answers | None,
    progress: Progress,
) -> list[Metrics]:
    """Of each branch; of the model itself without any."""
    parts = blocks.by_domain() or [("", blocks)]
    each: list[Tensor] = []
    counts: list[int] = []
    before = 0
    with mixed_precision(model.device):
        for _, part in parts:
            each.append(_summed(model, branches, part, batch, teacher, before, progress))
            counts.append(predictions(part))
            before += len(part)
    for measured in (model, teacher):  # in the middle of a training, for one
        if isinstance(measured, HybridLM):
            reshard(measured)
    alone = teacher is None
    return [
        replace(
            _metrics(torch.stack(sums).sum(0), sum(counts), alone),
            domains={
                name: _metrics(found, count, alone)
                for (name, _), found, count in zip(parts, sums, counts, strict=True)
                if name
            },
        )
        for sums in zip(*each, strict=True)
    ]


def _summed(
    model: HybridLM,
    branches: Branches | None,
    blocks: TokenBlocks,
    batch: int,
    teacher: HybridLM | Answers | None,
    before: int,
    progress: Progress,
) -> Tensor:
    """[branches or 1, 4] float64, sums over predictions: loss, right, agreeing, KL. A teacher's
    ``Answers`` to these blocks begin at block ``before``.
    """
    device = model.device
    count = 1 if branches is None else branches.size
    totals = torch.zeros(count, 4, dtype=torch.float64, device=device)
    for start in range(0, len(blocks), batch):
        tokens = torch.from_numpy(blocks.tokens[start : start + batch].astype("int64")).to(device)
        documents, rows = _counted(blocks, start, batch, device)
        other = None
        if teacher is not None:
            other = _answers(teacher, tokens, documents, before + start)[rows]
        targets = tokens[:, 1:].reshape(-1)[rows]

        def take(
            number: int,
            hidden: Tensor,
            rows: Tensor | slice = rows,
            other: Tensor | None = other,
            targets: Tensor = targets,
        ) -> None:
            mine = hidden[:, :-1].flatten(0, 1)[rows]
            _compare(totals[number], model, mine, targets, teacher, other)

        if branches is None:
            take(0, model.hidden_states(tokens, documents))
        else:
            model.hidden_states_of_each(branches, tokens, take, documents)
        progress.advance(len(tokens))
    return totals


def _compare(
    totals: Tensor,
    model: HybridLM,
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
def answers(model: HybridLM, blocks: TokenBlocks, batch: int = 8) -> Answers:
    """What the model says to a text, computed once: for ``measure``."""
    device = model.device
    rows = []
    with mixed_precision(device):
        for start in range(0, len(blocks), batch):
            tokens = torch.from_numpy(blocks.tokens[start : start + batch].astype("int64")).to(
                device
            )
            documents, _ = _counted(blocks, start, batch, device)
            rows.append(model.hidden_states(tokens, documents)[:, :-1])
    return Answers(hidden=torch.cat(rows), head_weight=model.head_weight)


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


def _counted(
    blocks: TokenBlocks, start: int, batch: int, device: torch.device
) -> tuple[Tensor | None, Tensor | slice]:
    """(documents [b, s] that do not see each other, the predictions that count among b (s - 1))."""
    if not blocks.spans:
        return None, slice(None)
    documents = torch.from_numpy(blocks.documents[start : start + batch]).to(device)
    return documents // 2, (documents[:, 1:] % 2 == 1).flatten()


def _answers(
    teacher: HybridLM | Answers, tokens: Tensor, documents: Tensor | None, start: int
) -> Tensor:
    """[b (s - 1), d], those of given ``Answers`` from block ``start`` on."""
    if isinstance(teacher, Answers):
        return teacher.hidden[start : start + len(tokens)].flatten(0, 1)
    return teacher.hidden_states(tokens, documents)[:, :-1].flatten(0, 1)


def _synchronize(tokens: Tensor) -> None:
    if tokens.is_cuda:
        torch.cuda.synchronize()
