"""The typed files that pass between rooms, and the only way files are written: beside, fsync, rename. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.errors import UserError

SCHEMA = 1


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whatever dies in between.

    Raises: UserError when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise disk_error(path, error) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def disk_error(path: Path, error: OSError) -> UserError:
    """The four-part form of an error of the file system."""
    return UserError(
        f"Could not write {path}.", got=error.strerror or str(error), allowed="a writable folder with enough space",
        next="Free space or name another run directory with --run; what was written before is untouched.",
    )  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable, with a final newline."""
    write_atomic(path, (json.dumps(value, indent=1, default=_plain) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises: UserError where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{path.name} is missing.", got=path, allowed="a file that an earlier stage wrote",
            next="Run the stage that writes it first (score, search, prune, distill, eval).",
        ) from error  # fmt: skip
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON.", got=error, allowed="JSON", next="Restore the file or run its stage again."
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {type(value)}")


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that change when any part does."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How much each part of a parent matters; higher is kept.

    ``blocks`` [n_blocks] float64: damage done by removing block i alone. ``intermediate`` block -> [intermediate]:
    FFN channels. ``head_channels`` block -> [heads, head_dim]: channels of the Mamba x projection, from which both
    head and head-channel scores follow (arXiv:2504.11409, section 3.1). ``meta`` says how they were measured.
    """

    blocks: NDArray[np.float64]
    intermediate: dict[int, NDArray[np.float64]]
    head_channels: dict[int, NDArray[np.float64]]
    meta: dict[str, Any]
    q_heads: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    hidden: NDArray[np.float64] | None = None
    curves: dict[int, dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a safetensors file; its header's ``minipuzzle`` entry says what each tensor is."""
        from safetensors.numpy import save

        tensors = {"blocks": self.blocks}
        tensors |= {f"blocks.{i}.intermediate": s for i, s in self.intermediate.items()}
        tensors |= {f"blocks.{i}.head_channels": s for i, s in self.head_channels.items()}
        about = {
            "schema": SCHEMA, "blocks": "[n_blocks] damage of removing one block",
            "blocks.N.intermediate": "[intermediate] FFN channel score",
            "blocks.N.head_channels": "[heads, head_dim] Mamba x-projection channel score", "meta": self.meta,
        }  # fmt: skip
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        write_atomic(path, save(arrays, metadata={"minipuzzle": json.dumps(about, default=_plain)}))

    @staticmethod
    def load(path: Path) -> Scores:
        """Read what ``save`` wrote. Raises: UserError where it is missing or of another schema."""
        from safetensors import safe_open

        if not path.exists():
            raise UserError(
                "There are no scores here.", got=path, allowed="a scores file written by minipuzzle score",
                next="Run minipuzzle score first, in the same run directory.",
            )  # fmt: skip
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("minipuzzle", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("schema") != SCHEMA:
            raise UserError(
                f"{path} has another schema.", got=about.get("schema"), allowed=SCHEMA, next="Run minipuzzle score again."
            )
        named = [(name.split("."), array) for name, array in tensors.items() if name != "blocks"]
        return Scores(
            blocks=tensors["blocks"],
            intermediate={int(n[1]): a for n, a in named if n[2] == "intermediate"},
            head_channels={int(n[1]): a for n, a in named if n[2] == "head_channels"},
            meta=about["meta"],
        )
