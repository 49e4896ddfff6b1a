"""A checkpoint with its matrices in 8 or 4 bits; the file's bytes are those said beforehand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from minipuzzle.checkpoint import write_checkpoint
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.mix import formats, summary, with_chosen
from minipuzzle.checkpoint.shards import read_entries
from minipuzzle.errors import InternalError, UserError
from minipuzzle.export.compressed import Encoder, coded
from minipuzzle.export.gptq import function, round_by_gptq
from minipuzzle.export.inputs import largest_cached, largest_inputs
from minipuzzle.runs.calibrated import calibrated
from minipuzzle.runs.disk import Need, check_disk
from minipuzzle.runs.job import open_checkpoint
from minipuzzle.settings import Data
from minipuzzle.units import bytes_

log = logging.getLogger(__name__)

DTYPES = ("BF16", "F16", "F32")
TEXTS = Data()


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


def run_quantize(
    path: Path,
    target: Path,
    name: str,
    group: int,
    *,
    rounding: str = "nearest",
    kv: str = "none",
    data: Data = TEXTS,
    samples: int = 128,
    device: str = "auto",
) -> Written:
    """Write the checkpoint in ``path`` to ``target`` in the format ``name``, "auto" for that which
    a search chose for each block; ``group`` are columns of int4. ``kv`` "fp8": with scales of keys
    and values. That, fp8-static, and ``rounding`` "gptq", read ``samples`` blocks of the
    calibration text.

    Raises: UserError where columns are no whole groups, where the target is the checkpoint itself,
    where compressed-tensors is not installed, where nothing is cached, and as ``round_by_gptq``;
    InternalError where bytes are not those planned.
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
    encoder = Encoder(checkpoint, found, cache=kv == "fp8")
    if rounding == "gptq":
        function()
    if reads or kv == "fp8" or rounding == "gptq":
        text = calibrated(checkpoint, data, samples, device)
        if reads:
            encoder.inputs = largest_inputs(text.model, text.batches())
        if kv == "fp8":
            encoder.cached = largest_cached(text.model, text.batches())
        if rounding == "gptq":
            round_by_gptq(text.model, text.batches(), encoder)
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
