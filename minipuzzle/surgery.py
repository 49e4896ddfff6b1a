"""A selection of a parent's blocks, heads and channels becomes a checkpoint, and the plan
equals the file.

Every cut is checked: the file's parameters and bytes are the plan's, each axis that was to shrink
did, and the saved model's logits are those of the parent under masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch import Tensor as Planned
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.checkpoint.mix import with_chosen
from minipuzzle.errors import InternalError
from minipuzzle.model.base import Context
from minipuzzle.model.masks import index_mask
from minipuzzle.model.prefetch import BlockReader, embed_into

TOLERANCE = 1e-4
"""Largest difference of masked and sliced FP32 logits, relative to the largest logit: sums run in
another order.
"""
HEAD_NUMBERS = 1 << 24
"""Of each head in FP32 at a time."""


def cut(parent: Checkpoint, selection: Selection, target: Path) -> Checkpoint:
    """Write the student that ``selection`` leaves of ``parent`` to ``target`` and return it, opened
    and counted.

    Raises: UserError where the selection is illegal or the family has no way to write it,
    InternalError where the file does not hold exactly what was planned.
    """
    student = selection.student(parent.architecture)
    student.rules.check(parent.architecture.blocks, selection.kept_blocks, student.blocks)
    source = _sources(parent.architecture, student, selection)
    planned_bytes = 0

    def sliced(name: str) -> Tensor:
        nonlocal planned_bytes
        tensor = _sliced(parent, *source[name])
        planned_bytes += tensor.numel() * tensor.element_size()
        return tensor

    config = with_chosen(parent.family.config(student, parent.config), selection.kept_formats)
    write_checkpoint(
        target,
        student,
        sliced,
        source=parent,
        config=config,
        extra=parent.family.extra_files(student),
        mtp=sliced,
    )
    saved = Checkpoint.open(target)
    _same("parameters", saved.parameters, student.parameters, target)
    _same("bytes of tensors", saved.bytes, planned_bytes, target)
    if saved.architecture != student:
        _same(
            "architecture",
            saved.architecture.pattern,
            student.pattern + " with the planned sizes",
            target,
        )
    _shrank(parent.architecture, saved.architecture, selection, target)
    return saved


@torch.no_grad()
def verify_logits(
    parent: Checkpoint,
    saved: Checkpoint,
    selection: Selection,
    tokens: NDArray[np.integer],
    device: torch.device,
) -> float:
    """The largest difference between the masked parent's and the saved model's logits, relative to
    the largest.

    ``tokens`` [b, s]. Both are read from disk and run in FP32 side by side, a block of each at a
    time and the heads in pieces, so a model of any size is checked whole.

    Raises: InternalError above TOLERANCE.
    """
    parent_reader, reader = (
        BlockReader(c, device=device, dtype=torch.float32, exact=True) for c in (parent, saved)
    )
    kept = index_mask(parent.architecture.hidden, selection.hidden, device)
    context = Context(hidden_mask=kept)
    masked, sliced = (
        torch.empty(*tokens.shape, c.architecture.hidden, device=device) for c in (parent, saved)
    )
    embed_into(masked, parent, tokens)
    embed_into(sliced, saved, tokens)
    masked = masked if kept is None else masked * kept
    pairs = zip(
        parent_reader.blocks(selection.kept_blocks),
        reader.blocks(range(len(selection.kept_blocks))),
        strict=True,
    )
    for (index, block), (_, small) in pairs:
        with block.masked(selection.axes(index)):
            masked, sliced = block(masked, context), small(sliced, Context())
    norm = parent_reader.final_norm()
    norm.kept = kept
    error = _difference(parent, norm(masked), saved, reader.final_norm()(sliced))
    if not error <= TOLERANCE:
        raise InternalError(
            "The pruned checkpoint does not compute what was planned: relative logit difference"
            f" {error:.2e}, allowed {TOLERANCE:.0e}"
        )
    return error


def _difference(parent: Checkpoint, masked: Tensor, saved: Checkpoint, sliced: Tensor) -> float:
    """The largest difference of two models' logits, from what their heads get, relative to the
    largest of the first's.
    """
    largest = difference = torch.zeros((), device=masked.device)
    vocabulary = parent.architecture.vocab_size
    rows = max(1, HEAD_NUMBERS // parent.architecture.hidden)
    for start in range(0, vocabulary, rows):
        stop = min(start + rows, vocabulary)
        want, got = (_logits(c, h, start, stop) for c, h in ((parent, masked), (saved, sliced)))
        largest = torch.maximum(largest, want.abs().max())
        difference = torch.maximum(difference, (want - got).abs().max())
    return float(difference / largest)


def _logits(checkpoint: Checkpoint, hidden: Tensor, start: int, stop: int) -> Tensor:
    """Those of the tokens start..stop - 1."""
    head = torch.empty(stop - start, hidden.shape[-1], device=hidden.device)
    checkpoint.read_into(
        "embeddings.weight" if checkpoint.architecture.tied_head else "head.weight", head, start
    )
    return hidden @ head.t()


def _sources(
    parent: Architecture, student: Architecture, selection: Selection
) -> dict[str, tuple[Planned, list[NDArray[np.int64] | None]]]:
    """For each tensor of the student: the parent's tensor and, by dimension, the indices to keep
    (``Weight.indices``).
    """
    position = selection.kept_blocks
    top = {} if selection.hidden is None else {"hidden": selection.hidden}
    by_name = {tensor.name: tensor for tensor in parent.file_tensors()}
    result = {}
    for tensor in student.file_tensors():
        if tensor.block is None:
            whole, kept = by_name[tensor.name], top
        else:
            original = position[tensor.block]
            whole = by_name[f"blocks.{original}.{tensor.weight.name}"]
            kept = selection.axes(original)
        result[tensor.name] = (whole, whole.weight.indices(whole.sizes, kept))
    return result


def _sliced(parent: Checkpoint, whole: Planned, indices: list[NDArray[np.int64] | None]) -> Tensor:
    """What ``indices`` keep of a tensor. Of a stack only the matrices that stay are read, one at a
    time.
    """
    if not whole.stacked:
        return _select(parent.tensor(whole.name), indices).contiguous()
    stay = range(whole.shape[0]) if indices[0] is None else indices[0].tolist()
    size = [
        n if index is None else index.shape[-1]
        for n, index in zip(whole.shape[1:], indices[1:], strict=True)
    ]
    result = torch.empty(len(stay), *size, dtype=parent.held_dtype(whole.name))
    for place, number in enumerate(stay):
        own = [i[place] if i is not None and i.ndim == 2 else i for i in indices[1:]]
        result[place] = _select(parent.expert_tensor(whole.name, number), own)
    return result


def _select(tensor: Tensor, indices: list[NDArray[np.int64] | None]) -> Tensor:
    for dim, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(dim, torch.from_numpy(index))
    return tensor


def _shrank(
    parent: Architecture, student: Architecture, selection: Selection, target: Path
) -> None:
    for new, old in enumerate(selection.kept_blocks):
        for axis, kept in parent.blocks[old].kept_sizes(selection.axes(old)).items():
            before, after = parent.blocks[old].sizes[axis], student.blocks[new].sizes[axis]
            if after != kept or (kept < before and after >= before):
                _same(f"size of axis {axis} of block {old}", after, kept, target)


def _same(what: str, got: object, planned: object, target: Path) -> None:
    if got != planned:
        raise InternalError(
            f"The file in {target} is not what was planned: {what} is {got}, planned {planned}"
        )
