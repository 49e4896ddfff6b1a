"""GGUF files, which llama.cpp reads: any width in any block, one tensor in memory at a time.

What a family's blocks are called there is in ``gguf_nemotron_h``, ``gguf_llama`` and
``gguf_qwen``; words and merges are in ``gguf_tokenizer``. The file itself is written by llama.cpp's
own ``gguf`` package, and K- and IQ-formats are made of it by ``llama_quantize``.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import disk_error
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.export import gguf_columns, gguf_llama, gguf_nemotron_h, gguf_qwen, llama_quantize
from minipuzzle.export.gguf_tensor import GgufTensor, stored_bytes
from minipuzzle.progress import SILENT, Progress
from minipuzzle.temporary import temporary_beside

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("f32", "f16", "bf16", "q8_0")
OF_CHECKPOINT = {"F64": "f32", "F32": "f32", "F16": "f16"}
"""Every other dtype of a checkpoint (BF16, FP8) fits into bf16 without loss."""
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
Q8_BLOCK = 32
LATER = "Take transformers; minipuzzle export CHECKPOINT lists the engines."


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written. ``types`` counts the tensors of each GGML type; ``active`` are the
    parameters that one token is computed with, None where these are all; ``notes`` are sentences on
    what differs from the checkpoint.
    """

    path: Path
    dtype: str
    bytes: int
    tensors: int
    types: Mapping[str, int]
    parameters: int
    active: int | None = None
    notes: tuple[str, ...]


def export_gguf(
    checkpoint: Checkpoint,
    target: Path,
    dtype: str = "auto",
    progress: Progress = SILENT,
    importance: llama_quantize.Importance | None = None,
) -> Exported:
    """Write ``checkpoint`` as one GGUF file, whole or not at all; ``dtype`` "auto" is the
    checkpoint's own, ``progress`` is told of weights. ``importance`` is what llama-quantize's
    formats (``llama_quantize.FORMATS``) are rounded by.

    Raises: UserError where the ``gguf`` package or llama-quantize is missing, where llama.cpp has
    no place for the family, its shapes or its tokenizer, where FP16 cannot hold a weight, and where
    something else than a GGUF file lies at ``target``.
    """
    library = gguf_package()
    whole = coarse = _dtype(checkpoint, dtype)
    if coarse in llama_quantize.FORMATS:
        llama_quantize.tool()
        whole = _dtype(checkpoint, "auto")
    _check_target(target)
    folder: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = temporary_beside(target)
        folder.mkdir()
        made = folder / "whole.gguf"
        notes, kinds = _write(library, checkpoint, made, whole, progress)
        if coarse != whole:
            model_type, architecture = str(checkpoint.config["model_type"]), checkpoint.architecture
            layout, model = layout_of(model_type, architecture)
            listed = layout.tensors(architecture, model)
            made, kinds = llama_quantize.quantise(
                library, checkpoint, listed, made, coarse, importance
            )
            notes += gguf_columns.sentences(architecture, listed, kinds, coarse)
        made.chmod(0o644)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(target)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return Exported(
        path=target,
        dtype=coarse,
        bytes=target.stat().st_size,
        tensors=len(kinds),
        types=Counter(kind for kind, _ in kinds.values()),
        parameters=checkpoint.parameters,
        active=checkpoint.architecture.active_if_fewer,
        notes=tuple(notes),
    )


def gguf_package() -> ModuleType:
    """The ``gguf`` package. Raises: UserError where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            "The package gguf, which writes GGUF files, is not installed.",
            got=error,
            allowed="gguf 0.17 or later",
            next='pip install "minipuzzle[gguf]"',
        ) from error
    return gguf


def layout_of(model_type: str, architecture: Architecture) -> tuple[ModuleType, str]:
    """The module that knows a family's fields and tensors in GGUF, and llama.cpp's name of the
    architecture.

    Raises: UserError for a family without one, or shapes that llama.cpp has no place for.
    """

    layouts: tuple[ModuleType, ...] = (gguf_nemotron_h, gguf_llama, gguf_qwen)
    found = next((layout for layout in layouts if model_type in layout.MODEL_TYPES), None)
    if found is None:
        raise UserError(
            "This family cannot be written as GGUF yet.",
            got=model_type,
            next=LATER,
            allowed=", ".join(t for layout in layouts for t in layout.MODEL_TYPES),
        )
    reason = found.unsupported(model_type, architecture)
    if reason is not None:
        raise UserError(
            f"llama.cpp has no place for this architecture as {model_type}.",
            got=reason[0],
            allowed=reason[1],
            next=LATER,
        )
    return found, found.model_name(model_type, architecture)


def _write(
    library: ModuleType, checkpoint: Checkpoint, path: Path, dtype: str, progress: Progress
) -> tuple[list[str], dict[str, tuple[str, int]]]:
    """The file; sentences on what differs from the checkpoint, and the (type, columns) of each
    tensor. A reader of the file takes 10 microseconds for each token to say the same.
    """
    from minipuzzle.export.gguf_tokenizer import add_tokenizer

    architecture = checkpoint.architecture
    layout, model = layout_of(str(checkpoint.config["model_type"]), architecture)
    writer = library.GGUFWriter(path, model)
    writer.add_name(checkpoint.path.resolve().name)
    writer.add_file_type(library.LlamaFileType[FILE_TYPES[dtype]])
    writer.add_vocab_size(architecture.vocab_size)
    writer.add_context_length(architecture.max_positions)
    writer.add_embedding_length(architecture.hidden)
    layout.add_fields(library, writer, architecture)
    notes = add_tokenizer(library, writer, checkpoint)
    if architecture.mtp:
        notes.append("multi-token prediction is not written: the GGUF has the model alone")
    if checkpoint.copied:
        notes.append("the vision part is not written: the GGUF has the text's model")
    listed: list[GgufTensor] = layout.tensors(architecture, model)
    types = _plan(library, writer, checkpoint, listed, dtype)
    softened = [
        t.name
        for t, kind in zip(listed, types, strict=True)
        if t.matrix and kind.name == "F16" != dtype.upper()
    ]
    if softened:
        notes.append(
            f"{len(softened)} matrices whose rows are no multiple of {Q8_BLOCK} are F16:"
            f" {', '.join(softened[:3])}"
        )
    announced = {
        name: (info.dtype.name, int(info.shape[-1]))
        for part in writer.tensors
        for name, info in part.items()
    }
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(listed, types, strict=True):
        value = tensor.convert(checkpoint.tensor(tensor.source).float()).contiguous()
        writer.write_tensor_data(_stored(library, tensor, value, kind))
        progress.advance(value.numel())
    writer.close()
    return notes, announced


def _plan(
    library: ModuleType, writer: Any, checkpoint: Checkpoint, listed: list[GgufTensor], dtype: str
) -> list[Any]:
    """Announce every tensor to the writer, and return the GGML type of each."""
    import numpy as np
    import torch

    shapes = {t.name: t.shape for t in checkpoint.architecture.tensors()}
    types = []
    for tensor in listed:
        shape = tuple(tensor.convert(torch.empty(shapes[tensor.source], device="meta")).shape)
        name = dtype if tensor.matrix else "f32"
        name = "f16" if name == "q8_0" and shape[-1] % Q8_BLOCK else name
        kind = library.GGMLQuantizationType[name.upper()]
        bytes_ = stored_bytes(library, kind.name, shape)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), bytes_, raw_dtype=kind)
        types.append(kind)
    return types


def _stored(library: ModuleType, tensor: GgufTensor, value: Tensor, kind: Any) -> Any:
    import numpy as np

    with np.errstate(over="ignore"):  # reported below
        stored = library.quants.quantize(value.numpy(), kind)
    if kind.name == "F16" and not np.isfinite(stored).all():
        raise UserError(
            f"FP16 cannot hold {tensor.source}.",
            got=f"a weight of {value.abs().max():.4g}",
            allowed="at most 65,504",
            next="Change export.dtype to bf16 or f32.",
        )
    return stored


def _dtype(checkpoint: Checkpoint, dtype: str) -> str:
    if dtype == "auto":
        return OF_CHECKPOINT.get(checkpoint.dtype, "bf16")
    known = (*DTYPES, *llama_quantize.FORMATS)
    if dtype not in known:
        raise UserError(
            "Unknown dtype of a GGUF file.",
            got=dtype,
            allowed=", ".join(("auto", *known)),
            next="Leave export.dtype out for the dtype of the checkpoint.",
        )
    return dtype


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise UserError(
            "A GGUF file cannot be written over a folder.",
            got=target,
            allowed="a file name",
            next=f"Name a file in it: {target / 'model.gguf'}",
        )
    if target.exists():
        with target.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UserError(
                    f"{target} is not a GGUF file, so it is not replaced.",
                    got="another kind of file",
                    allowed="a new name, or an older GGUF file",
                    next="Name another file.",
                )
