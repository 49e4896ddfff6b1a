"""The files of a saved state: safetensors of bounded size, written, checked and read in pieces.

A tensor is a row of numbers here, whatever its shape, of which a process holds some. The entry
``NAME@N`` of a file holds numbers of NAME from the N-th on (``NAME``: from the first), so that any
number of processes reads what any other number wrote. Beyond the model all this takes
``PIECE_BYTES`` a thread.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from minipuzzle.checkpoint.header import Entry, read_header
from minipuzzle.errors import UserError
from minipuzzle.ranks import Ranks
from minipuzzle.training.parallel import local_rows

T = TypeVar("T")
SHARD_BYTES = 256 << 20
PIECE_BYTES = 16 << 20
CHECK_BYTES = 1 << 20
THREADS = 8
DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.uint8: "U8",
}
DONT_NEED = getattr(os, "POSIX_FADV_DONTNEED", None)


@dataclass(frozen=True)
class Part:
    """``values`` [n] of the tensor ``name``: its numbers from the one numbered ``first`` on."""

    name: str
    first: int
    values: Tensor

    def cut(self, start: int, stop: int) -> Part:
        """Those of ours from ``start`` to ``stop``."""
        return Part(self.name, self.first + start, self.values[start:stop])


def write(folder: Path, tensors: dict[str, Tensor], ranks: Ranks) -> dict[str, str]:
    """Write this process's share of ``tensors``; the checksum of each of its files.

    Nobody may change the tensors meanwhile. The files may still be on their way to the disk
    afterwards: ``check`` waits for that. Raises: OSError.
    """
    files = split_into_files([_share(name, tensor, ranks) for name, tensor in tensors.items()])
    names = [
        f"shard-{ranks.rank + 1:05}-{number + 1:05}.safetensors" for number in range(len(files))
    ]
    return dict(
        zip(names, _in_threads(_write, [folder / name for name in names], files), strict=True)
    )


def check(folder: Path, sums: dict[str, str], *, written: bool = False) -> list[str]:
    """The names of those files whose checksums are not ``sums``.

    Files just ``written`` are brought to the disk and read from there instead of from memory.
    Raises: OSError.
    """
    found = _in_threads(lambda name: _checksum(folder / name, written), list(sums))
    return [name for name, checksum in zip(sums, found, strict=True) if checksum != sums[name]]


def read(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill what this process holds of ``tensors``, in place.

    Raises: UserError where the files lack some of it.
    """
    entries: dict[str, list[tuple[int, Entry]]] = defaultdict(list)
    for file in sorted(folder.glob("*.safetensors")):
        for key, entry in read_header(file).items():
            name, _, first = key.partition("@")
            entries[name].append((int(first or 0), entry))
    wanted = [_held(name, tensor) for name, tensor in tensors.items()]
    found = _in_threads(lambda part: _fill(part, entries[part.name]), wanted)
    lacking = [
        part.name for part, count in zip(wanted, found, strict=True) if count != len(part.values)
    ]
    if lacking:
        raise UserError(
            f"The training checkpoint {folder} is not this model's.",
            got=f"{len(lacking)} tensors like {lacking[0]} not whole",
            allowed="every number that is trained",
            next="Delete that folder, or take the model that it was saved of.",
        )


def memory_bytes(device: torch.device) -> int:
    """What saving a model on ``device`` takes of the CPU's memory beyond the model, at most."""
    return THREADS * (CHECK_BYTES if device.type == "cpu" else PIECE_BYTES)


def split_into_files(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts in their order, cut for files of ``SHARD_BYTES`` at most, none of them empty."""
    files: list[list[Part]] = []
    room = 0
    for part in parts:
        done, size = 0, part.values.element_size()
        while done < len(part.values):
            if room < size:
                files.append([])
                room = SHARD_BYTES
            count = min(len(part.values) - done, room // size)
            files[-1].append(part.cut(done, done + count))
            done, room = done + count, room - count * size
    return files


def _held(name: str, tensor: Tensor) -> Part:
    """What this process holds of a tensor: all of it, or FSDP's rows."""
    rows, first = local_rows(tensor) if hasattr(tensor, "device_mesh") else (tensor, 0)
    return Part(name, first * prod(tensor.shape[1:]), rows.detach().view(-1))


def _share(name: str, tensor: Tensor, ranks: Ranks) -> Part:
    """What this process writes of a tensor: an equal part of what several hold alike (HSDP,
    adapters).
    """
    part, mesh = _held(name, tensor), getattr(tensor, "device_mesh", None)
    holders, number = ranks.world, ranks.rank
    if mesh is not None:
        holders, number = (mesh.size(0), mesh.get_local_rank(0)) if mesh.ndim == 2 else (1, 0)
    count = len(part.values)
    return part.cut(count * number // holders, count * (number + 1) // holders)


def _in_threads(work: Callable[..., T], *items: Sequence[Any]) -> list[T]:
    with ThreadPoolExecutor(max(1, min(THREADS, os.cpu_count() or 1))) as threads:
        return list(threads.map(work, *items))


def _write(path: Path, parts: Sequence[Part]) -> str:
    head, pinned = _header(parts), _pinned(parts[0].values.device)
    checksum = zlib.crc32(head)
    with path.open("wb") as file:
        file.write(head)
        for part in parts:
            for piece in _pieces(part.values):
                data = piece if pinned is None else _like(pinned, piece).copy_(piece)
                checksum = zlib.crc32(_memory(data), checksum)
                file.write(_memory(data))
    return f"{checksum:08x}"


def _checksum(path: Path, written: bool) -> str:
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return "missing"
    checksum, memory = 0, memoryview(bytearray(CHECK_BYTES))
    with file:
        if written:
            os.fsync(file.fileno())
        if written and DONT_NEED is not None:
            os.posix_fadvise(file.fileno(), 0, 0, DONT_NEED)
        while count := file.readinto(memory):
            checksum = zlib.crc32(memory[:count], checksum)
    return f"{checksum:08x}"


def _fill(part: Part, entries: Sequence[tuple[int, Entry]]) -> int:
    """Fill it from its tensor's entries, (number of the first value, entry) each; how many values
    that were.
    """
    values, pinned, found = part.values, _pinned(part.values.device), 0
    for first, entry in entries:
        start, stop = (
            max(first, part.first),
            min(first + prod(entry.shape), part.first + len(values)),
        )
        if start < stop and entry.dtype == DTYPES[values.dtype]:
            with entry.file.open("rb") as file:
                file.seek(entry.start + (start - first) * values.element_size())
                for piece in _pieces(values[start - part.first : stop - part.first]):
                    data = piece if pinned is None else _like(pinned, piece)
                    found += file.readinto(_memory(data)) // values.element_size()
                    if pinned is not None:
                        piece.copy_(data)
    return found


def _header(parts: Sequence[Part]) -> bytes:
    entries, end = {}, 0
    for part in parts:
        start, end = end, end + part.values.nbytes
        key = f"{part.name}@{part.first}" if part.first else part.name
        entries[key] = {
            "dtype": DTYPES[part.values.dtype],
            "shape": [len(part.values)],
            "data_offsets": [start, end],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _pieces(values: Tensor) -> tuple[Tensor, ...]:
    return values.split(PIECE_BYTES // values.element_size())


def _pinned(device: torch.device) -> Tensor | None:
    """Memory for a piece on its way from or to a GPU; none is needed for a CPU."""
    if device.type == "cpu":
        return None
    torch.cuda.set_device(device)  # this thread would begin on the first GPU
    return torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)


def _like(pinned: Tensor, piece: Tensor) -> Tensor:
    return pinned[: piece.nbytes].view(piece.dtype)


def _memory(values: Tensor) -> memoryview:
    """Of a tensor [n] on the CPU."""
    return memoryview(cast(Any, values.view(torch.uint8).numpy()))
