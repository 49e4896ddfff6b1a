"""A checkpoint on disk. Opening reads headers and checks everything; a tensor is read when
asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.claims import claim, copied, ignored
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.doors import travelling
from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.heads import TORCH_DTYPES
from minipuzzle.checkpoint.identity import digests, state_of
from minipuzzle.checkpoint.quantised import declared, named
from minipuzzle.checkpoint.shards import read_entries
from minipuzzle.checkpoint.stored import changed
from minipuzzle.errors import UserError
from minipuzzle.families import Name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PIECE_BYTES = 1 << 24
ADAPTER = "adapter_config.json"


class Checkpoint:
    """A checked checkpoint: each tensor of its architecture is in its files exactly once, with the
    right shape.

    ``notes`` are sentences on what the files hold and we leave out or do not run. ``copied`` are
    tensors that are no part of the text: whatever is made of this checkpoint has them as they are.
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
        self._stored = claim(path, config, self.family, architecture, entries)
        self.copied = {name: entries[name] for name in copied(self.family, entries)}
        self._entries = {name: e for s in self._stored.values() for name, e in s.held.items()}
        self._every = self._entries | self.copied
        self._states = {entry.file: state_of(entry.file) for entry in self._every.values()}
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
                raise changed(file, "another size or time")
        known = digests(self._every)
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, stored in sorted(self._stored.items()):
            data = " ".join(known[piece] for piece in stored.held)
            digest.update(f"{name} {stored.dtype} {stored.shape} {data}".encode())
        for name, entry in sorted(self.copied.items()):
            digest.update(f"{name} {entry.dtype} {entry.shape} {known[name]}".encode())
        return digest.hexdigest()[:16]

    def _remarks(self, entries: dict[str, Entry]) -> Iterator[str]:
        for what, pattern in ignored(self.architecture).items():
            count = sum(bool(pattern.search(name)) for name in entries)
            if count:
                yield f"{count} tensors of {what} are not read"
        if self.copied:
            numbers = sum(entry.numbers for entry in self.copied.values())
            yield (
                f"{len(self.copied)} tensors that are no text ({numbers:,} parameters) are copied "
                "as they are; they are neither counted nor run nor trained"
            )
        if self.architecture.mtp:
            yield (
                f"multi-token prediction ({self.architecture.mtp_parameters:,} parameters) is kept "
                "and its hidden size cut with the model's; it is neither run nor trained"
            )
        elif self.family.architecture(self.config).mtp:
            yield (
                "config.json promises multi-token prediction, the weights have none: a student's "
                "config promises none"
            )
        if self.family.architecture(self.config).tied_head and not self.architecture.tied_head:
            yield (
                "config.json says that the head is the embedding, the weights have another one: "
                "it is read as the model's own"
            )
        said = named(declared(self.path, self.config))
        codes = [s for s in self._stored.values() if s.scales]
        if codes:
            yield (
                f"{len(codes)} tensors are FP8 codes with scales ({said}), read as {codes[0].plain}"
                " weights; activations are not rounded to FP8 here"
            )
        elif said:
            yield (
                f"config says that the weights are quantised ({said}), they are plain "
                f"{self.dtype}: read as they are"
            )
        for link in travelling(self.path)[1]:
            yield f"{link.relative_to(self.path)} is a link out of the checkpoint: not copied along"

    @property
    def parameters(self) -> int:
        """The number of the model's elements in the file: without buffers, and without
        multi-token prediction.
        """
        apart = {t.name for t in self.architecture.mtp_tensors()} | self.architecture.buffers
        return sum(s.numbers for name, s in self._stored.items() if name not in apart)

    @property
    def bytes(self) -> int:
        """The size of the text's tensors in the file, scales included."""
        return sum(entry.nbytes for entry in self._entries.values())

    @property
    def copied_bytes(self) -> int:
        """The size of what is no text."""
        return sum(entry.nbytes for entry in self.copied.values())

    @property
    def plain_bytes(self) -> int:
        """The size of the tensors as they are given, and as a checkpoint cut from this one holds
        them: FP8 codes as weights.
        """
        return sum(stored.plain_bytes for stored in self._stored.values())

    @property
    def dtype(self) -> str:
        """The dtype in which most tensors are given, as safetensors names it."""
        return Counter(s.dtype for s in self._stored.values()).most_common(1)[0][0]

    @property
    def forms(self) -> dict[str, Name]:
        """How the files hold the weights of a name in a block, by that name; the last block's where
        blocks differ.
        """
        tensors = (*self.architecture.mtp_tensors(), *self.architecture.tensors())
        return {tensor.weight.name: self._stored[tensor.name].name for tensor in tensors}

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer.json lies beside the weights."""
        return (self.path / "tokenizer.json").is_file()

    def tensor(self, name: str) -> Tensor:
        """The tensor of a canonical name, on the CPU, in its own dtype; a buffer, in FP32.

        What the file holds in pieces is filled piece by piece. Raises: UserError for NaN or
        infinity, and where the file is not any more what was opened.
        """
        import torch

        from minipuzzle.checkpoint.fill import check_finite

        stored = self._stored[name]
        plain = not stored.scales and name not in self.architecture.buffers
        if not isinstance(stored.name, str) or not plain:
            whole = torch.empty(stored.shape, dtype=self.held_dtype(name))
            self.read_into(name, whole)
            return whole
        result = _opened(stored.name, stored.entries[0])
        check_finite(stored, 0, result)
        return result

    def copied_tensor(self, name: str) -> Tensor:
        """One of ``copied``, as it is. Raises: UserError where the file is not any more what was
        opened.
        """
        return _opened(name, self.copied[name])

    def held_dtype(self, name: str) -> torch.dtype:
        """The dtype in which ``tensor`` gives a tensor."""
        import torch

        dtype = "F32" if name in self.architecture.buffers else self._stored[name].dtype
        return cast(torch.dtype, getattr(torch, TORCH_DTYPES[dtype]))

    def expert_tensor(self, name: str, index: int) -> Tensor:
        """One index of a tensor's first dimension, such as one expert's matrix; no other is read.

        Raises: as ``tensor``.
        """
        ((_, rows),) = self.pieces(name, start=index, stop=index + 1)
        return rows[0]

    def pieces(
        self, name: str, *, pinned: bool = False, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """(first row, some rows) of a tensor's rows ``start``..``stop`` - 1, on the CPU, in its own
        dtype.

        Read into one buffer of PIECE_BYTES, or of one row where that is larger, that the next piece
        overwrites: a tensor of any size costs that much memory and no mapped pages (which would
        count as the process's own). A row of a stack of experts is an expert's matrix.
        ``pinned`` memory suits copies to a GPU; FP8 codes become weights in memory that is not.
        Raises: as ``tensor``.
        """
        import torch

        from minipuzzle.checkpoint.fill import check_finite

        stored = self._stored[name]
        dtype: torch.dtype = getattr(torch, TORCH_DTYPES[stored.entries[0].dtype])
        last = stored.shape[0] if stop is None else stop
        row_bytes = stored.nbytes // stored.shape[0]
        step = max(1, min(last - start, PIECE_BYTES // row_bytes))
        buffer = torch.empty(step * row_bytes, dtype=torch.uint8, pin_memory=pinned)
        for first in range(start, last, step):
            size = min(step, last - first) * row_bytes
            stored.read(first * row_bytes, buffer.numpy().data[:size])
            values = buffer[:size].view(dtype).view(-1, *stored.shape[1:])
            if stored.scales:
                values = stored.dequantised(first * row_bytes, values)
            check_finite(stored, first * row_bytes, values)
            yield first, values

    def read_into(self, name: str, target: Tensor, start: int = 0) -> None:
        """Fill ``target`` (any dtype and device) with a tensor's rows from ``start`` on, a piece at
        a time: several threads read (``fill``) but where scales have to be multiplied.

        Raises: as ``pieces``.
        """
        import torch

        from minipuzzle.checkpoint.fill import fill

        stored = self._stored[name]
        if target.is_contiguous() and not stored.scales:
            dtype: torch.dtype = getattr(torch, TORCH_DTYPES[stored.dtype])
            fill(stored, start * (stored.nbytes // stored.shape[0]), target, dtype)
            return
        for first, values in self.pieces(
            name, pinned=target.is_cuda, start=start, stop=start + len(target)
        ):
            target[first - start : first - start + len(values)].copy_(values)


def _opened(name: str, entry: Entry) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(entry.file, framework="pt") as file:
            result: Tensor = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise changed(entry.file, error) from error
    return result
