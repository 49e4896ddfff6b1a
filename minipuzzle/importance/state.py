"""What a killed scoring goes on from: the streams and scores after a finished block, one
safetensors file a process.

A file is written beside the last one and takes its place when every process has written its own, so
that all of them find the same block on disk.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.artifacts import disk_error, parse_json
from minipuzzle.checked import Count
from minipuzzle.checkpoint.header import read_header
from minipuzzle.errors import UserError
from minipuzzle.interrupt import Interrupt
from minipuzzle.ranks import Ranks

PIECE_ROWS_BYTES = 1 << 25
SAVING_SHARE = 0.03
"""Saving takes at most about this share of the time, the first one too where a disk writes
``BYTES_A_SECOND``. Where a block is computed faster than its streams can be written (a GPU),
several blocks pass between two saves, and a kill costs those since the last: 33 times as long as a
save takes, so that of an 8B, whose streams are 4 to 16 GiB, scores of two minutes are not saved.
"""
BYTES_A_SECOND = 1e9
"""Of a save, until one has shown it."""
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}


class State:
    """A folder in ``folder`` with the state of one scoring. ``identity`` says of which inputs;
    others have their own.

    A signal that ``stop`` has noted stops the scoring once its state is saved.
    """

    def __init__(self, folder: Path, identity: str, ranks: Ranks, stop: Interrupt) -> None:
        self.folder, self.identity, self.ranks, self.stop = folder / identity, identity, ranks, stop
        self._last_save = time.monotonic()
        self._rate = BYTES_A_SECOND

    def due(self, nbytes: int) -> bool:
        """Whether it is time to save so many bytes, the same answer in every process."""
        waited = time.monotonic() - self._last_save
        if self.ranks.least(float(not self.stop.asked)) == 0.0:
            return True
        wanted = nbytes / self._rate * (1 / SAVING_SHARE - 1)
        return self.ranks.least(float(waited >= wanted)) == 1.0

    def save(self, position: int, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Keep the state after ``position`` visits to blocks in place of the one before.

        Raises: UserError when the disk is full, and what ends the command where a signal has come.
        """
        started = time.monotonic()
        path = self.folder / f"{position:06}.{self.ranks.rank}.safetensors"
        temporary = self.folder / f".{self.ranks.rank}.writing"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                _write(file, {**about, "identity": self.identity, "position": position}, tensors)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error(path, error) from error
        self.ranks.least(position)  # all have written
        for file_path in self._files():
            if file_path != path:
                file_path.unlink()
        self._last_save = time.monotonic()
        self._rate = bytes_of(tensors) / (self._last_save - started)
        self.stop.check(self.ranks)

    def load(self) -> tuple[int, dict[str, Any], SavedTensors] | None:
        """(position, what was said about it, its tensors) of the last state that every process has;
        None for none.
        """
        found = {}
        for path in self._files():
            about = _about(path)
            if about["identity"] == self.identity:
                found[int(about["position"])] = (about, path)
        position = int(self.ranks.least(max(found, default=-1)))
        if position not in found:
            return None
        about, path = found[position]
        return position, about, SavedTensors(path)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"*.{self.ranks.rank}.safetensors"))


def bytes_of(tensors: dict[str, Tensor]) -> int:
    """Of all of them."""
    return sum(tensor.nbytes for tensor in tensors.values())


class SavedTensors:
    """The tensors of a saved state, read into memory that is already there."""

    def __init__(self, path: Path) -> None:
        self.entries = read_header(path)

    def array(self, name: str) -> NDArray[np.float64]:
        """A float64 array."""
        entry = self.entries[name]
        result = torch.empty(entry.shape, dtype=torch.float64)
        self.read_into(name, result)
        return result.numpy()

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill the first rows of ``target``."""
        entry = self.entries[name]
        with entry.file.open("rb") as file:
            file.seek(entry.start)
            for part in _parts(target[: entry.shape[0]]):
                values = torch.empty(part.shape, dtype=part.dtype)
                file.readinto(_bytes(values))
                part.copy_(values)


def _write(file: BinaryIO, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    # safetensors.torch.save copies every tensor to bytes first, which would double the memory of
    # the streams.
    header: dict[str, Any] = {"__metadata__": {"about": json.dumps(about)}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        for part in _parts(tensor):
            file.write(_bytes(part.cpu()))


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    row = max(1, tensor[:1].numel() * tensor.element_size())
    return iter(tensor.split(max(1, PIECE_ROWS_BYTES // row))) if tensor.numel() else iter(())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(torch.uint8).numpy().data.cast("B")


class _About(TypedDict):
    identity: str
    position: Count


def _about(path: Path) -> dict[str, Any]:
    again = "Delete it: the scoring starts again with the first block."
    try:
        read_header(path)  # refuses what is no whole file
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        text = header.get("__metadata__", {}).get("about", "null")
        return parse_json(text, _About, what=f"The header of {path}", next=again)
    except UserError as error:
        raise UserError(
            f"{path} is no saved scoring.",
            got=error.got,
            allowed="what minipuzzle score wrote",
            next=again,
        ) from error
