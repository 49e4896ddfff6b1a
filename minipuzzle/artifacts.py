"""The typed files that pass between rooms, and the only way files are written: beside, fsync, rename. No torch."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.errors import UserError
from minipuzzle.temporary import temporary_beside

SCHEMA = 2


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whatever dies in between.

    Raises: UserError when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


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


Array = NDArray[np.float64]
Curve = tuple[NDArray[np.int64], Array]
WIDTHS = ("intermediate", "head_channels", "q_heads")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How much each part of a parent matters; higher is kept. All values float64.

    ``blocks`` [n_blocks]: damage done by removing block i alone. ``intermediate`` block -> [intermediate]: FFN channels.
    ``head_channels`` block -> [heads, head_dim]: channels of the Mamba x projection, from which both head and
    head-channel scores follow (arXiv:2504.11409, section 3.1). ``q_heads`` block -> [q_heads]: attention heads.
    ``layers`` [n_layers]: damage of removing layer i, where a layer is several blocks that stay or go together.
    ``hidden`` [hidden]: hidden channels of the whole model. ``curves`` block -> axis ("intermediate", "heads",
    "kv_heads") -> (sizes int64 ascending, errors): damage, as in ``blocks``, of narrowing block i alone to a size; the
    whole size does none. ``meta`` says how they were measured.
    """

    blocks: Array
    intermediate: dict[int, Array]
    head_channels: dict[int, Array]
    q_heads: dict[int, Array] = field(default_factory=dict)
    hidden: Array | None = None
    layers: Array | None = None
    curves: dict[int, dict[str, Curve]] = field(default_factory=dict)
    meta: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write a safetensors file; its header's ``minipuzzle`` entry says what each tensor is."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray] = {"blocks": self.blocks}
        tensors |= {f"blocks.{i}.{axis}": s for axis in WIDTHS for i, s in getattr(self, axis).items()}
        tensors |= {name: value for name in ("hidden", "layers") if (value := getattr(self, name)) is not None}
        for i, axes in self.curves.items():
            for axis, (sizes, errors) in axes.items():
                tensors |= {f"blocks.{i}.curve.{axis}.sizes": sizes, f"blocks.{i}.curve.{axis}.errors": errors}
        about = {
            "schema": SCHEMA, "blocks": "[n_blocks] damage of removing one block",
            "layers": "[n_layers] damage of removing one layer of several blocks",
            "blocks.N.intermediate": "[intermediate] FFN channel score",
            "blocks.N.head_channels": "[heads, head_dim] Mamba x-projection channel score",
            "blocks.N.q_heads": "[q_heads] attention head score", "hidden": "[hidden] hidden channel score",
            "blocks.N.curve.AXIS.sizes": "sizes of AXIS that block N was narrowed to, ascending",
            "blocks.N.curve.AXIS.errors": "damage of narrowing block N alone to each of those sizes", "meta": self.meta,
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
        named = {tuple(name.split(".")): array for name, array in tensors.items()}
        widths: Any = {axis: {int(n[1]): a for n, a in named.items() if n[2:] == (axis,)} for axis in WIDTHS}
        curves: dict[int, dict[str, Curve]] = {}
        for n, sizes in named.items():
            if n[2:3] == ("curve",) and n[4] == "sizes":
                curves.setdefault(int(n[1]), {})[n[3]] = (sizes, named[*n[:4], "errors"])
        return Scores(
            blocks=tensors["blocks"], hidden=tensors.get("hidden"), layers=tensors.get("layers"), curves=curves,
            meta=about["meta"], **widths,
        )  # fmt: skip
