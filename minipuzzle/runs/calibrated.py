"""A model and the calibration text that is run through it, for formats that are chosen by what
matrices read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer
from minipuzzle.kernels import choose
from minipuzzle.model import HybridLM, load_model
from minipuzzle.runs.device import pick_device, pick_dtype
from minipuzzle.runs.job import check_tokenizer
from minipuzzle.runs.texts import load_text, own_texts, text_parts
from minipuzzle.settings import Data

log = logging.getLogger(__name__)

BATCH = 4
"""Blocks of text at once."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """``tokens`` [blocks, length] int64 are on the CPU."""

    model: HybridLM
    tokens: Tensor

    def batches(self) -> Iterator[Tensor]:
        """Tokens [b, length] on the model's device."""
        device = self.model.embeddings.weight.device
        return (batch.to(device) for batch in self.tokens.split(BATCH))


def calibrated(checkpoint: Checkpoint, data: Data, samples: int, device: str) -> Calibrated:
    """The model in the dtype that its device computes in, and so many blocks of text."""
    tokens = torch.from_numpy(calibration(checkpoint, data).tokens[:samples].astype(np.int64))
    where = pick_device(device)
    dtype, kernels = pick_dtype("auto", where), choose(where)
    model = load_model(checkpoint, device=where, dtype=dtype, kernels=kernels).eval()
    log.info(f"reads {tokens.numel():,} tokens of the calibration text")
    return Calibrated(model=model, tokens=tokens)


def calibration(checkpoint: Checkpoint, data: Data) -> TokenBlocks:
    """The calibration text in the checkpoint's tokens. Raises: UserError where there is none."""
    data = own_texts(data, checkpoint)
    tokenizer = Tokenizer.load(checkpoint.path)
    check_tokenizer(tokenizer, checkpoint)
    with TemporaryDirectory() as folder:
        parts = text_parts("calibration", data.calibration, tokenizer, Path(folder))
        return load_text("calibration", parts, tokenizer, data, Path(folder))
