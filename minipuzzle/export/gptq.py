"""Rounding that makes up, in the columns still to come, for what it did to a row (GPTQ), by
llm-compressor's own function.

Source: arXiv:2210.17323; llm-compressor 0.14, modifiers/gptq/gptq_quantize.py, whose defaults these
numbers are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

from minipuzzle.checkpoint.coding import scheme
from minipuzzle.errors import UserError
from minipuzzle.export.compressed import Encoder
from minipuzzle.export.inputs import watching
from minipuzzle.memory.formats import Format
from minipuzzle.model import HybridLM
from minipuzzle.model.base import ResidualBlock

log = logging.getLogger(__name__)

COLUMNS = 128
"""Columns that are rounded before what they did is carried over to all after them."""
DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of its mean."""
ORDER = "static"
"""Columns that read the largest activations first; each stays in its own group."""


def function() -> Callable[..., Any]:
    """llm-compressor's. Raises: UserError where it is not installed."""
    try:
        from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
    except ImportError as error:
        raise UserError(
            "GPTQ is llm-compressor's, which is not installed.",
            got=error,
            allowed="llmcompressor 0.14",
            next='pip install "minipuzzle[gptq]" (it wants transformers 5.21 or older), or change'
            " quantize.rounding to nearest.",
        ) from error
    return cast(Callable[..., Any], quantize_weight)


@torch.no_grad()
def round_by_gptq(model: HybridLM, batches: Iterable[Tensor], encoder: Encoder) -> None:
    """Give ``encoder`` the weights that the codes of 4 bits are to mean; ``batches`` are tokens
    [b, s]. Matrices of 8 bits and whole ones stay as they are.

    Block after block: a matrix is rounded by what it reads where those before it are rounded
    already, an expert's by the tokens that are routed to it. So are the model's own matrices, in
    place. Raises: UserError where llm-compressor is not installed, and where nothing has 4 bits.
    """
    quantize_weight = function()
    names = {piece.planned.name for piece in encoder.matrices if _coarse(piece.format)}
    if not names:
        raise UserError(
            "GPTQ rounds formats of 4 bits.",
            got="none of the blocks in one",
            allowed="int4, nvfp4, mxfp4, or a mix with one of them",
            next="Change quantize.format, or quantize.rounding to nearest.",
        )
    states = [model.embed(tokens) for tokens in batches]  # [b, s, hidden] each
    hessians: dict[str, Tensor] = {}
    unread = 0

    def read(name: str, rows: Tensor, offsets: Tensor | None) -> None:
        if name in names:
            counts = [len(rows)] if offsets is None else offsets.diff().tolist()
            if name not in hessians:
                size = (
                    len(counts),
                    rows.shape[1],
                    rows.shape[1],
                )  # [experts or 1, columns, columns]
                hessians[name] = rows.new_zeros(size, dtype=torch.float32)
            for found, part in zip(hessians[name], rows.float().split(counts), strict=True):
                found.addmm_(part.T, part)

    for index, block in enumerate(model.blocks):
        with watching(index, cast(ResidualBlock, block), read):
            for h in states:
                model.run_blocks(h, None, index, index + 1, None)
        for name, found in hessians.items():
            parts = encoder.parts(name, model.get_parameter(name))
            each = len(parts) // len(found)  # matrices that read the same: q, k and v, gate and up
            unread += each * sum(not hessian.any() for hessian in found)
            for number, ((piece, part), own) in enumerate(
                zip(parts, encoder.states(name), strict=True)
            ):
                assert piece.format is not None
                meant = _rounded(quantize_weight, piece.format, own, found[number // each])
                encoder.meant[piece.name] = meant.to(own["weight"].dtype).cpu()
                part.copy_(meant)
        hessians.clear()
        states = [model.run_blocks(h, None, index, index + 1, None) for h in states]
    if unread:
        log.warning(
            f"gptq: no token of the text reaches {unread} matrices of experts, which are rounded to"
            " the nearest; more text (quantize.samples) may reach them"
        )


def _coarse(format: Format | None) -> bool:
    return format is not None and format.bits == 4


def _rounded(
    quantize_weight: Callable[..., Any], format: Format, state: dict[str, Tensor], hessian: Tensor
) -> Tensor:
    """The weights [rows, columns] FP32 that the codes mean, under the scales of ``state``."""
    hessian = hessian.clone()  # it works in them
    # a column that no token of the text has anything in would become 0: rounded to the nearest
    diagonal = hessian.diagonal()
    unread = diagonal == 0
    diagonal[unread] = 1 if unread.all() else diagonal[~unread].mean()
    scale, whole = state["weight_scale"], state.get("weight_global_scale")
    found, _, _ = quantize_weight(
        weights=state["weight"][None].float().to(hessian.device),
        hessians=hessian[None],
        scale=scale[None],
        zero_point=torch.zeros_like(scale)[None],
        global_scale=whole,
        quant_args=scheme(format).weights.model_copy(update={"actorder": ORDER}),
        blocksize=COLUMNS,
        percdamp=DAMPING,
    )
    return cast(Tensor, found)[0]
