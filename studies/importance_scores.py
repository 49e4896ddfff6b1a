"""The scores that studies/importance.py compares, of every estimator."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.importance import (
    Collector,
    HiddenCollector,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from minipuzzle.model import HybridLM, load_model
from minipuzzle.model.head import matmul_fp32
from minipuzzle.scores import Scores
from minipuzzle.training import mixed_precision

FORWARD = ("minitron", "minitron-pre", "flap", "contribution")


RANDOM_SEEDS = 3


CHUNK_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every process needs to know."""

    checkpoint: str
    text: str | None
    cache: str
    device: str
    length: int
    validation_blocks: int
    tokens: int
    batch: int
    rate: float
    threads: int


def scores(
    setting: Setting, samples: int, seed: int
) -> tuple[dict[str, Scores], dict[str, np.ndarray], Any]:
    """(width scores by estimator, block scores by metric, the parent's architecture)."""
    device = torch.device(setting.device)
    model = load_model(Checkpoint.open(Path(setting.checkpoint)), device=device).eval()
    blocks = texts(setting, "calibration")
    samples = min(samples, len(blocks))
    chosen = torch.from_numpy(blocks.take(samples, seed=seed).tokens.astype(np.int64))
    with mixed_precision(device):
        widths = collect(model, chosen.split(setting.batch), device)
        widths["taylor"] = taylor_scores(model, blocks, samples, setting.batch, seed)
        removal = block_metrics(
            model, chosen[: max(1, samples // 2)].split(min(4, setting.batch)), device
        )
    widths["magnitude"] = magnitude_scores(model)
    widths["random"] = random_scores(model.architecture, 0)
    removal |= {name: widths[name].blocks for name in ("taylor", "magnitude", "random")}
    return widths, removal, model.architecture


@torch.no_grad()
def collect(
    model: HybridLM, batches: Iterable[torch.Tensor], device: torch.device
) -> dict[str, Scores]:
    """The forward estimators, all in one pass."""
    parent = model.architecture
    pairs = list(enumerate(zip(parent.blocks, model.blocks, strict=True)))
    collectors = {
        name: [Collector(block, module, name) for _, (block, module) in pairs] for name in FORWARD
    }
    hidden = [HiddenCollector(block, module) for _, (block, module) in pairs]
    with ExitStack() as stack:
        for collector in [*(c for row in collectors.values() for c in row), *hidden]:
            stack.enter_context(collector)
        for tokens in batches:
            model.hidden_states(tokens.to(device))
    whole = np.sum([collector.scores()["hidden"] for collector in hidden], axis=0)
    found = {}
    for name, row in collectors.items():
        got = [next(iter(collector.scores().values())) for collector in row]
        widths: dict[str, dict[int, np.ndarray]] = {}
        for i, (block, _) in pairs:
            widths.setdefault(block.widths[0].score, {})[i] = got[i]
        found[name] = Scores(
            blocks=np.zeros(len(got)),
            widths=widths,
            hidden=whole if name == "minitron" else None,
            meta={"estimator": name},
        )
    return found


@torch.no_grad()
def block_metrics(
    model: HybridLM, batches: Iterable[torch.Tensor], device: torch.device
) -> dict[str, np.ndarray]:
    """Damage at the model's end of removing each block: mse (arXiv:2411.19146), logit-mse
    (arXiv:2511.16664, not normalised: that is one factor for all), kl, loss; and bi = 1 -
    cos(block's input, its output) (arXiv:2407.14679).
    """
    count = len(model.blocks)
    sums = {name: np.zeros(count) for name in ("mse", "logit-mse", "kl", "loss", "bi")}
    total = 0
    for tokens in batches:
        stream = [model.embed(tokens.to(device))]
        for i in range(count):
            stream.append(model.run_blocks(stream[-1], None, i, i + 1))
        targets = tokens.to(device)[:, 1:].flatten()
        whole = model.final_norm(stream[-1])[:, :-1].flatten(0, 1)
        total += len(targets)
        for j in range(count):
            cosine = torch.cosine_similarity(stream[j].float(), stream[j + 1].float(), dim=-1)[
                :, :-1
            ]
            sums["bi"][j] += (1 - cosine).double().sum().item()
            ends = model.final_norm(model.run_blocks(stream[j], None, j + 1, count))[
                :, :-1
            ].flatten(0, 1)
            sums["mse"][j] += (ends.float() - whole.float()).square().mean(-1).double().sum().item()
            for part in torch.arange(len(targets), device=device).split(CHUNK_TOKENS):
                logits, changed = (
                    matmul_fp32(h[part], model.head_weight.to(h.dtype).t()) for h in (whole, ends)
                )
                sums["logit-mse"][j] += (changed - logits).square().mean(-1).double().sum().item()
                p, q = logits.log_softmax(-1), changed.log_softmax(-1)
                sums["kl"][j] += (p.exp() * (p - q)).double().sum().item()
                sums["loss"][j] += (p - q).gather(1, targets[part, None]).double().sum().item()
    return {name: value / total for name, value in sums.items()}


def texts(setting: Setting, which: str) -> TokenBlocks:
    """The "train", "calibration" (a given text's training half serves both) or "validation" text,
    tokenised once.
    """
    if setting.text is None:
        path = embedded.text_path(which)
    else:
        path = Path(setting.text) / "val" if which == "validation" else Path(setting.text)
    tokenizer = Tokenizer.load(Path(setting.checkpoint))
    return load_blocks(path, tokenizer, block_length=setting.length, cache=Path(setting.cache))
