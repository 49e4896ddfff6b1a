"""A checkpoint with its matrices in 8 or 4 bits; the file's bytes are those said beforehand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from minipuzzle.checkpoint import write_checkpoint
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.shards import read_entries
from minipuzzle.errors import InternalError, UserError
from minipuzzle.export.compressed import Encoder
from minipuzzle.memory.formats import format_of
from minipuzzle.runs.disk import Need, check_disk
from minipuzzle.runs.job import open_checkpoint
from minipuzzle.units import bytes_

log = logging.getLogger(__name__)

DTYPES = ("BF16", "F16", "F32")


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


def run_quantize(path: Path, target: Path, name: str, group: int) -> Written:
    """Write the checkpoint in ``path`` to ``target`` in the format ``name``.

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
    format = format_of(name, group)
    encoder = Encoder(checkpoint, format)
    planned = encoder.nbytes
    log.info(f"quantize: {bytes_(checkpoint.bytes)} become {bytes_(planned)}: {format.label}")
    check_disk("quantize", [Need("checkpoint", planned, target, anew=True)], torch.device("cpu"))
    write_checkpoint(
        target,
        checkpoint.architecture,
        checkpoint.tensor,
        source=checkpoint,
        config=checkpoint.config,
        extra=checkpoint.family.extra_files(checkpoint.architecture),
        encoder=encoder,
    )
    config, _ = read_config(target)
    written = sum(entry.nbytes for entry in read_entries(target, config)[0].values())
    if written != planned:
        raise InternalError(f"{written:,} bytes were written where {planned:,} were planned")
    weights = sum(rows * columns for rows, columns in (p.shape for p in encoder.matrices))
    return Written(
        path=target,
        format=name,
        bytes=written,
        before=checkpoint.bytes,
        matrices=len(encoder.matrices),
        quantised=weights,
    )
