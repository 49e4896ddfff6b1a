"""Writing a checkpoint: a whole folder appears under its name, or nothing does."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.arch import Tensor as Planned
from minipuzzle.artifacts import disk_error, unreadable
from minipuzzle.checkpoint.doors import RESTORE, travelling
from minipuzzle.checkpoint.pieces import interleaved_rows, piece_shapes
from minipuzzle.checkpoint.quantised import QUANTISATION
from minipuzzle.checkpoint.reader import Checkpoint
from minipuzzle.checkpoint.shards import INDEX, SINGLE
from minipuzzle.errors import InternalError, UserError
from minipuzzle.families import Name, names_of, written
from minipuzzle.temporary import REPLACED, temporary_beside

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 5_000_000_000


class Encoder(Protocol):
    """Writes tensors otherwise than as they are."""

    def config(self) -> dict[str, Any]:
        """What config.json says of them, in its field quantization_config."""

    def __call__(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """What is written, by name, in place of the file's tensor ``name``."""

    def beside(self) -> dict[str, Tensor]:
        """What the file has besides, by name."""


def write_checkpoint(
    path: Path,
    architecture: Architecture,
    tensor: Callable[[str], Tensor],
    *,
    source: Checkpoint | None,
    config: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
    extra: dict[str, str] | None = None,
    mtp: Callable[[str], Tensor] | None = None,
    encoder: Encoder | None = None,
) -> None:
    """Write ``architecture`` to the folder ``path``; ``tensor`` gives each tensor by canonical
    name, when its turn comes.

    Files larger than ``shard_bytes`` are split and indexed. Tokenizer files, templates, licences,
    the generation config and tensors that are no text are copied from ``source``; what it holds
    expert by expert is written so. ``extra`` are text files to add; ``mtp`` gives the tensors of
    multi-token prediction, which are those of ``source`` without it. What ``config`` says of the
    dtype is made true, and that weights are quantised left out, but where an ``encoder`` quantises
    them: then each tensor is written under the family's first name. A checkpoint that is there
    already is replaced once the new one is whole. Raises: UserError when the disk is full, leaving
    nothing behind, and where something else than a checkpoint is there, InternalError for a tensor
    of another shape than the architecture's.
    """
    path = path.resolve()
    _check_target(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        temporary.mkdir()
        temporary.chmod(0o755)
        kind = str(config["model_type"])
        forms = {} if source is None or encoder is not None else source.forms
        if mtp is None and source is not None:
            mtp = source.tensor
        tensors = _given(architecture, tensor, mtp)
        copied = () if source is None else source.copied
        as_they_are = ((name, source.copied_tensor(name)) for name in copied if source is not None)
        dtype = _write_weights(
            temporary, architecture, tensors, kind, forms, as_they_are, shard_bytes, encoder
        )
        said = _true(config, dtype)
        if encoder is not None:
            said["quantization_config"] = encoder.config()
        (temporary / "config.json").write_text(json.dumps(said, indent=2) + "\n")
        for name, text in (extra or {}).items():
            (temporary / name).write_text(text)
        if source is not None:
            _copy_beside(source.path, temporary)
        for file in sorted(temporary.rglob("*"), reverse=True):
            file.chmod(0o755 if file.is_dir() else 0o644)
            _sync(file)
        _sync(temporary)
        _replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise disk_error(path, error) from error
        raise


def _check_target(path: Path) -> None:
    if path.is_dir() and (next(path.iterdir(), None) is None or (path / "config.json").is_file()):
        return
    if path.exists():
        raise UserError(
            f"{path} is not a checkpoint, so it is not replaced.",
            got="a folder without a config.json" if path.is_dir() else "a file",
            allowed="a new name, an empty folder or a checkpoint",
            next="Choose another folder, or move this one away.",
        )


def _copy_beside(source: Path, target: Path) -> None:
    for file in travelling(source)[0]:
        if not os.access(file, os.R_OK):
            denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            raise unreadable(file, denied, next=RESTORE)
        copy = target / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def _true(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """``config`` without what it says of other weights: quantised, of another dtype or file."""
    kept = {k: v for k, v in config.items() if k not in (*QUANTISATION, "transformers_weights")}
    return kept | {field: dtype for field in ("dtype", "torch_dtype") if field in kept}


def _given(
    architecture: Architecture, tensor: Callable[[str], Tensor], mtp: Callable[[str], Tensor] | None
) -> Iterator[tuple[Planned, Tensor]]:
    """Each tensor of the file, read when its turn comes."""
    for entry in architecture.tensors():
        yield entry, tensor(entry.name)
    for entry in architecture.mtp_tensors():
        if mtp is None:
            raise InternalError(f"nothing gives {entry.name}")
        yield entry, mtp(entry.name)


def _write_weights(
    folder: Path,
    architecture: Architecture,
    tensors: Iterator[tuple[Planned, Tensor]],
    model_type: str,
    forms: Mapping[str, Name],
    copied: Iterator[tuple[str, Tensor]],
    shard_bytes: int,
    encoder: Encoder | None,
) -> str:
    """The dtype of most numbers written, as torch names it. ``forms``: how weights of a name within
    a block are written, where a family knows several ways; ``copied`` come after the
    ``architecture``'s tensors under their own names.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    names, buffers = families.find(model_type).names(architecture), architecture.buffers
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = 0
    numbers: Counter[str] = Counter()

    def flush() -> None:
        try:
            save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors says "no space left on device"
            raise OSError(str(error)) from error
        shards.append(list(pending))
        pending.clear()

    def put(held: dict[str, Tensor]) -> None:
        nonlocal size, total
        bytes_ = sum(values.nbytes for values in held.values())
        if size and size + bytes_ > shard_bytes:
            flush()
            size = 0
        pending.update(held)
        size, total = size + bytes_, total + bytes_

    for entry, value in tensors:
        if entry.name in buffers:  # FP32 in every file, whatever the weights' dtype
            value = value.float()
        if tuple(value.shape) != entry.shape:
            raise InternalError(
                f"Tensor {entry.name} has not the planned shape: {tuple(value.shape)}, planned"
                f" {entry.shape}"
            )
        numbers[str(value.dtype).removeprefix("torch.")] += value.numel()
        name = written(names[entry.name], forms.get(entry.weight.name))
        for piece, part in zip(names_of(name), _parts(entry, name, value), strict=True):
            put({piece: part} if encoder is None else encoder(piece, part))
    if encoder is not None:
        put(encoder.beside())
    for piece, part in copied:
        put({piece: part})
    flush()
    dtype = numbers.most_common(1)[0][0]
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / SINGLE)
        return dtype
    weight_map: dict[str, str] = {}
    for number, members in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{number}").rename(folder / name)
        weight_map |= dict.fromkeys(members, name)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return dtype


def _parts(planned: Planned, name: Name, value: Tensor) -> Iterator[Tensor]:
    """``value`` as the file's tensors of ``name``; views where it is contiguous and in order."""
    if not isinstance(name, str) and name.interleaved:
        place = [row for rows in interleaved_rows(planned) for row in rows]  # of each of our rows
        ours = sorted(range(len(place)), key=place.__getitem__)
        value = value[ours]
    shapes = piece_shapes(planned, name)
    rows = value.contiguous().view(-1, *shapes[0][1:])
    start = 0
    for shape in shapes:
        yield rows[start : start + shape[0]].view(shape)
        start += shape[0]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        _sync(path.parent)
        return
    old = temporary_beside(path, REPLACED)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
