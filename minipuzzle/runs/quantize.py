"""A checkpoint with its matrices in 8 or 4 bits; the file's bytes are those said beforehand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.mix import formats, summary, with_chosen
from minipuzzle.checkpoint.shards import read_entries
from minipuzzle.data import TokenBlocks, Tokenizer
from minipuzzle.errors import InternalError, UserError
from minipuzzle.export.compressed import Encoder, coded
from minipuzzle.export.inputs import largest_inputs
from minipuzzle.kernels import choose
from minipuzzle.model import load_model
from minipuzzle.runs.device import pick_device, pick_dtype
from minipuzzle.runs.disk import Need, check_disk
from minipuzzle.runs.job import check_tokenizer, open_checkpoint
from minipuzzle.runs.texts import load_text, own_texts, text_parts
from minipuzzle.settings import Data
from minipuzzle.units import bytes_

log = logging.getLogger(__name__)

DTYPES = ("BF16", "F16", "F32")
TEXTS = Data()
BATCH = 4
"""Blocks of text at once."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written: ``bytes`` of all tensors, of them ``matrices`` of so many ``quantised``
    weights; ``before`` those of the checkpoint.
    """

    path: Path
    format: str
    bytes: int
    before: int
    matrices: int
    quantised: int


def calibration(checkpoint: Checkpoint, data: Data) -> TokenBlocks:
    """The calibration text in the checkpoint's tokens. Raises: UserError where there is none."""
    data = own_texts(data, checkpoint)
    tokenizer = Tokenizer.load(checkpoint.path)
    check_tokenizer(tokenizer, checkpoint)
    with TemporaryDirectory() as folder:
        parts = text_parts("calibration", data.calibration, tokenizer, Path(folder))
        return load_text("calibration", parts, tokenizer, data, Path(folder))


def _inputs(checkpoint: Checkpoint, data: Data, samples: int, device: str) -> dict[str, Tensor]:
    tokens = torch.from_numpy(calibration(checkpoint, data).tokens[:samples].astype(np.int64))
    where = pick_device(device)
    dtype, kernels = pick_dtype("auto", where), choose(where)
    model = load_model(checkpoint, device=where, dtype=dtype, kernels=kernels).eval()
    log.info(f"quantize: reads {tokens.numel():,} tokens")
    return largest_inputs(model, (batch.to(where) for batch in tokens.split(BATCH)))


def run_quantize(
    path: Path,
    target: Path,
    name: str,
    group: int,
    *,
    data: Data = TEXTS,
    samples: int = 128,
    device: str = "auto",
) -> Written:
    """Write the checkpoint in ``path`` to ``target`` in the format ``name``, "auto" for that which
    a search chose for each block; ``group`` are columns of int4. fp8-static reads ``samples``
    blocks of the calibration text.

    Raises: UserError where columns are no whole groups, where the target is the checkpoint itself,
    and where compressed-tensors is not installed; InternalError where bytes are not those planned.
    """
    checkpoint = open_checkpoint(path)
    if target.resolve() == path.resolve():
        raise UserError(
            f"{target} is the checkpoint to quantise.",
            got=target,
            allowed="another folder",
            next="Change quantize.target.",
        )
    if checkpoint.dtype not in DTYPES or checkpoint.plain_bytes != checkpoint.bytes:
        raise UserError(
            "The checkpoint is quantised already.",
            got=f"{bytes_(checkpoint.bytes)}, as weights {bytes_(checkpoint.plain_bytes)}",
            allowed="BF16, FP16 or FP32",
            next="Take the checkpoint that this one was made from.",
        )
    found = formats(checkpoint.config, len(checkpoint.architecture.blocks), name, group)
    if not coded(found):
        raise UserError(
            "The search left every block as it is: there is nothing to quantise.",
            got=f"quantize.format {name}, bf16 for all {len(found)} blocks",
            allowed="a format of fewer bits in some of them",
            next="Use the checkpoint as it is, or name a format with quantize.format.",
        )
    reads = any(format is not None and format.one for pair in found for format in pair)
    inputs = _inputs(checkpoint, data, samples, device) if reads else None
    encoder = Encoder(checkpoint, found, inputs)
    planned = encoder.nbytes
    log.info(f"quantize: {bytes_(checkpoint.bytes)} become {bytes_(planned)}: {summary(found)}")
    check_disk("quantize", [Need("checkpoint", planned, target, anew=True)], torch.device("cpu"))
    write_checkpoint(
        target,
        checkpoint.architecture,
        checkpoint.tensor,
        source=checkpoint,
        config=with_chosen(checkpoint.config, None),
        extra=checkpoint.family.extra_files(checkpoint.architecture),
        encoder=encoder,
    )
    config, _ = read_config(target)
    written = sum(entry.nbytes for entry in read_entries(target, config)[0].values())
    if written != planned:
        raise InternalError(f"{written:,} bytes were written where {planned:,} were planned")
    weights = sum(prod(piece.shape) for piece in encoder.matrices)
    return Written(
        path=target,
        format=name,
        bytes=written,
        before=checkpoint.bytes + checkpoint.copied_bytes,
        matrices=len(encoder.matrices),
        quantised=weights,
    )
