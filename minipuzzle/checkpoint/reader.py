"""Room 1: a checkpoint on disk. Opening reads headers and checks everything; a tensor is read when asked for."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.header import Entry, read_header
from minipuzzle.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PIECE_BYTES = 1 << 24
TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
                "F8_E5M2": "float8_e5m2"}  # fmt: skip
IGNORED = {"multi-token prediction (mtp.*)": re.compile(r"^mtp\."), "RoPE's speeds": re.compile(r"\.rotary_emb\.inv_freq$")}
"""What transformers does not load either: it has no such heads, and computes the speeds."""


class Checkpoint:
    """A checked checkpoint: each tensor of its architecture is in its files exactly once, with the right shape.

    ``notes`` are sentences on what the files hold and we leave out.
    """

    def __init__(self, path: Path, config: dict[str, Any], architecture: Architecture, entries: dict[str, Entry]) -> None:
        self.path = path
        self.config = config
        self.architecture = architecture
        self.family = families.find(str(config["model_type"]))
        self._names = _claim(path, self.family.names(architecture), entries, architecture)
        ignored = {what: sum(bool(pattern.search(name)) for name in entries) for what, pattern in IGNORED.items()}
        self.notes = tuple(f"{count} tensors of {what} are not read" for what, count in ignored.items() if count)
        self._entries = {name: entries[theirs] for name, theirs in self._names.items()}
        for tensor in architecture.tensors():
            entry = self._entries[tensor.name]
            if entry.shape != tensor.shape:
                raise UserError(
                    f"Tensor {self._names[tensor.name]} has the wrong shape.", got=entry.shape, allowed=tensor.shape,
                    next="config.json and weights disagree: restore both from one place.",
                )  # fmt: skip
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for name, entry in sorted(self._entries.items()):
            digest.update(f"{name} {entry.dtype} {entry.shape}".encode())
            digest.update(entry.sample())
        self.fingerprint = digest.hexdigest()[:16]

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """The checkpoint in a folder.

        Raises: UserError for a missing or truncated shard, a missing or unexpected tensor, a tensor of a wrong shape,
        pickled weights, and what ``read_config`` raises.
        """
        config, architecture = read_config(path)
        return Checkpoint(path, config, architecture, _entries(path))

    @property
    def parameters(self) -> int:
        """The number of elements in the file."""
        return sum(_count(e.shape) for e in self._entries.values())

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
        """The tensor of a canonical name, on the CPU, in its own dtype. Raises: UserError for NaN or infinity."""
        from safetensors import safe_open

        with safe_open(self._entries[name].file, framework="pt") as file:
            result: Tensor = file.get_tensor(self._names[name])
        self._check_finite(name, result)
        return result

    def pieces(
        self, name: str, *, pinned: bool = False, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """(first row, some rows) of a tensor's rows ``start``..``stop`` - 1, on the CPU, in its own dtype.

        Read into one buffer of PIECE_BYTES that the next piece overwrites: a tensor of any size costs that much memory
        and no mapped pages (which would count as the process's own). ``pinned`` memory suits copies to a GPU.
        Raises: UserError for NaN or infinity.
        """
        import torch

        entry = self._entries[name]
        dtype: torch.dtype = getattr(torch, TORCH_DTYPES[entry.dtype])
        rows, row_bytes = entry.shape[0], entry.nbytes // entry.shape[0]
        step = max(1, min(rows, PIECE_BYTES // row_bytes))
        buffer = torch.empty(step * row_bytes, dtype=torch.uint8, pin_memory=pinned)
        with entry.file.open("rb", buffering=0) as file:
            file.seek(entry.start + start * row_bytes)
            last = rows if stop is None else stop
            for first in range(start, last, step):
                size = min(step, last - first) * row_bytes
                _fill(file, buffer.numpy().data[:size])
                values = buffer[:size].view(dtype).view(-1, *entry.shape[1:])
                self._check_finite(name, values)
                yield first, values

    def read_into(self, name: str, target: Tensor, start: int = 0) -> None:
        """Fill ``target`` (any dtype and device) with a tensor's rows from ``start`` on, a piece at a time.

        Raises: as ``pieces``.
        """
        for first, values in self.pieces(name, pinned=target.is_cuda, start=start, stop=start + len(target)):
            target[first - start : first - start + len(values)].copy_(values)

    def _check_finite(self, name: str, values: Tensor) -> None:
        import torch

        finite = torch.isfinite(values.float() if values.element_size() == 1 else values)
        if not finite.all():
            raise UserError(
                f"Tensor {self._names[name]} holds NaN or infinity.", got=f"{(~finite).sum()} of "
                f"{values.numel()} values", allowed="finite weights", next="Take a checkpoint from before training broke.",
            )  # fmt: skip


def _fill(file: io.RawIOBase, target: memoryview) -> None:
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise UserError("A shard ended early.", got=f"{done} of {len(target)} bytes", allowed="the whole tensor",
                            next="Do not change a checkpoint while it is read.")  # fmt: skip
        done += count


def _entries(path: Path) -> dict[str, Entry]:
    if (path / INDEX).is_file():
        shards = _shards(path / INDEX)
        for shard in shards:
            if not (path / shard).is_file():
                raise UserError(
                    f"The shard {shard} is missing.", got=f"{len(list(path.glob('*.safetensors')))} of {len(shards)} shards",
                    allowed="every shard that the index names", next="Copy or download the file again.",
                )  # fmt: skip
        found = [read_header(path / shard) for shard in shards]
        count = Counter(name for header in found for name in header)
        twice = [name for name, n in count.items() if n > 1]
        if twice:
            raise UserError("A tensor is in two shards.", got=twice[0], allowed="each tensor once",
                            next="Restore the checkpoint.")  # fmt: skip
        return {name: entry for header in found for name, entry in header.items()}
    if (path / SINGLE).is_file():
        return read_header(path / SINGLE)
    pickled = [p.name for p in (*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth"))]
    raise UserError(
        f"There are no safetensors weights in {path}.", got=", ".join(pickled) or "no weights",
        allowed=f"{SINGLE} or {INDEX} with its shards (pickled weights can run code and are never read)",
        next="Save the model with safe_serialization=True, or check the path.",
    )  # fmt: skip


def _shards(index: Path) -> list[str]:
    try:
        shards = sorted({str(shard) for shard in json.loads(index.read_text())["weight_map"].values()})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index.name} is damaged.", got=repr(error), allowed="JSON with a weight_map: tensor -> shard",
                        next="Copy or download the file again.") from error  # fmt: skip
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        raise UserError(
            "The index names a file outside of the checkpoint.", got=outside[0], allowed="names of files in the same folder",
            next="Take the checkpoint from a source you trust.",
        )  # fmt: skip
    return shards


def _claim(
    path: Path, names: dict[str, tuple[str, ...]], entries: dict[str, Entry], architecture: Architecture
) -> dict[str, str]:
    claimed = {}
    for canonical, accepted in names.items():
        present = [name for name in accepted if name in entries]
        if len(present) != 1:
            raise UserError(
                f"Tensor {accepted[0]} is {'missing from' if not present else 'twice in'} {path}.",
                got=", ".join(present) or f"{len(entries)} other tensors", allowed=" or ".join(accepted),
                next="config.json and weights disagree: restore both from one place.",
            )  # fmt: skip
        claimed[canonical] = present[0]
    tied = {"lm_head.weight"} if architecture.tied_head else set()
    extra = sorted(n for n in set(entries) - set(claimed.values()) - tied if not _ignored(n))
    if extra:
        raise UserError(
            f"There are {len(extra)} tensors that the architecture has no place for.", got=", ".join(extra[:3]),
            allowed="the tensors that config.json describes", next="Check that config.json belongs to these weights.",
        )  # fmt: skip
    return claimed


def _ignored(name: str) -> bool:
    return any(pattern.search(name) for pattern in IGNORED.values())


def _count(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
