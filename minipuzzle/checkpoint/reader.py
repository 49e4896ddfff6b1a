"""A checkpoint on disk. Opening reads headers and checks everything; a tensor is read when
asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.claims import IGNORED, claim, quantisation
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.doors import travelling
from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.heads import TORCH_DTYPES
from minipuzzle.checkpoint.identity import digests, state_of
from minipuzzle.checkpoint.shards import read_entries
from minipuzzle.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PIECE_BYTES = 1 << 24
ADAPTER = "adapter_config.json"


class Checkpoint:
    """A checked checkpoint: each tensor of its architecture is in its files exactly once, with the
    right shape.

    ``notes`` are sentences on what the files hold and we leave out.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        architecture: Architecture,
        entries: dict[str, Entry],
    ) -> None:
        self.path = path
        self.config = config
        self.architecture = architecture
        self.family = families.find(str(config["model_type"]))
        self._names = claim(path, config, self.family, architecture, entries)
        self._entries = {name: entries[theirs] for name, theirs in self._names.items()}
        self._states = {entry.file: state_of(entry.file) for entry in self._entries.values()}
        self.notes = tuple(self._remarks(entries))

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """The checkpoint in a folder.

        Raises: UserError for a missing or truncated shard, a missing or unexpected tensor, a tensor
        of a wrong shape, pickled weights, and what ``read_config`` raises.
        """
        config, architecture = read_config(path)
        if (path / ADAPTER).is_file():
            raise UserError(
                "An adapter lies beside the weights, which transformers applies to them.",
                got=path / ADAPTER,
                allowed="a checkpoint without an adapter in its folder",
                next=(
                    "Move it to a folder of its own; minipuzzle merge puts it into the weights. Is"
                    " it in them already, delete it."
                ),
            )
        entries, beside = read_entries(path, config)
        opened = Checkpoint(path, config, architecture, entries)
        opened.notes += beside
        return opened

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of config.json and all bytes of all tensors: a copy has the same.

        All weights are read when it is first asked for, large files only if they changed since the
        last time (``identity``). Raises: UserError where files changed since they were opened.
        """
        for file, state in self._states.items():
            if state_of(file) != state:
                raise _changed(file, "another size or time")
        known = digests({self._names[name]: entry for name, entry in self._entries.items()})
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, entry in sorted(self._entries.items()):
            digest.update(f"{name} {entry.dtype} {entry.shape} {known[self._names[name]]}".encode())
        return digest.hexdigest()[:16]

    def _remarks(self, entries: dict[str, Entry]) -> Iterator[str]:
        for what, pattern in IGNORED.items():
            count = sum(bool(pattern.search(name)) for name in entries)
            if count:
                yield f"{count} tensors of {what} are not read"
        if self.family.architecture(self.config).tied_head and not self.architecture.tied_head:
            yield (
                "config.json says that the head is the embedding, the weights have another one: "
                "it is read as the model's own"
            )
        said = quantisation(self.config)
        if said:
            yield (
                f"config.json says that the weights are quantised ({said}), they are plain "
                f"{self.dtype}: read as they are"
            )
        for link in travelling(self.path)[1]:
            yield f"{link.relative_to(self.path)} is a link out of the checkpoint: not copied along"

    @property
    def parameters(self) -> int:
        """The number of elements in the file, buffers apart."""
        buffers = self.architecture.buffers
        return sum(e.numbers for name, e in self._entries.items() if name not in buffers)

    @property
    def bytes(self) -> int:
        """The size of the tensors in the file."""
        return sum(e.nbytes for e in self._entries.values())

    @property
    def dtype(self) -> str:
        """The dtype of most tensors, as safetensors names it."""
        return Counter(e.dtype for e in self._entries.values()).most_common(1)[0][0]

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer.json lies beside the weights."""
        return (self.path / "tokenizer.json").is_file()

    def tensor(self, name: str) -> Tensor:
        """The tensor of a canonical name, on the CPU, in its own dtype.

        Raises: UserError for NaN or infinity, and where the file is not any more what was opened.
        """
        from safetensors import SafetensorError, safe_open

        path = self._entries[name].file
        try:
            with safe_open(path, framework="pt") as file:
                result: Tensor = file.get_tensor(self._names[name])
        except (OSError, SafetensorError) as error:
            raise _changed(path, error) from error
        self._check_finite(name, result)
        return result

    def pieces(
        self, name: str, *, pinned: bool = False, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """(first row, some rows) of a tensor's rows ``start``..``stop`` - 1, on the CPU, in its own
        dtype.

        Read into one buffer of PIECE_BYTES that the next piece overwrites: a tensor of any size
        costs that much memory and no mapped pages (which would count as the process's own).
        ``pinned`` memory suits copies to a GPU. Raises: as ``tensor``.
        """
        import torch

        entry = self._entries[name]
        dtype: torch.dtype = getattr(torch, TORCH_DTYPES[entry.dtype])
        rows, row_bytes = entry.shape[0], entry.nbytes // entry.shape[0]
        step = max(1, min(rows, PIECE_BYTES // row_bytes))
        buffer = torch.empty(step * row_bytes, dtype=torch.uint8, pin_memory=pinned)
        try:
            opened = entry.file.open("rb", buffering=0)
        except OSError as error:
            raise _changed(entry.file, error) from error
        with opened as file:
            file.seek(entry.start + start * row_bytes)
            last = rows if stop is None else stop
            for first in range(start, last, step):
                size = min(step, last - first) * row_bytes
                _fill(entry.file, file, buffer.numpy().data[:size])
                values = buffer[:size].view(dtype).view(-1, *entry.shape[1:])
                self._check_finite(name, values)
                yield first, values

    def read_into(self, name: str, target: Tensor, start: int = 0) -> None:
        """Fill ``target`` (any dtype and device) with a tensor's rows from ``start`` on, a piece at
        a time.

        Raises: as ``pieces``.
        """
        for first, values in self.pieces(
            name, pinned=target.is_cuda, start=start, stop=start + len(target)
        ):
            target[first - start : first - start + len(values)].copy_(values)

    def _check_finite(self, name: str, values: Tensor) -> None:
        import torch

        finite = torch.isfinite(values.float() if values.element_size() == 1 else values)
        if not finite.all():
            raise UserError(
                f"Tensor {self._names[name]} holds NaN or infinity.",
                got=f"{(~finite).sum()} of {values.numel()} values",
                allowed="finite weights",
                next="Take a checkpoint from before training broke.",
            )


def _fill(path: Path, file: io.RawIOBase, target: memoryview) -> None:
    done = 0
    while done < len(target):
        try:
            count = file.readinto(target[done:])
        except OSError as error:
            raise _changed(path, error) from error
        if not count:
            raise _changed(path, f"{done} of {len(target)} bytes")
        done += count


def _changed(path: Path, got: object) -> UserError:
    return UserError(
        f"{path} changed after it was opened, or cannot be read any more.",
        got=got,
        allowed="files at rest",
        next="Wait until it is written, then start again.",
    )
