"""The typed files that pass between rooms, and the only way files are written: beside, fsync,
rename. No torch.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from minipuzzle.checked import AGAIN, require
from minipuzzle.errors import UserError
from minipuzzle.temporary import temporary_beside

SCHEMA = 2
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
LARGEST_TEXT = 1 << 30
"""Bytes. No text file that is read back as a whole comes near: the largest are indices and
tokenizers.
"""


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
        f"Could not write {path}.",
        got=error.strerror or str(error),
        allowed="a writable folder with enough space",
        next=(
            "Free space or name another run directory with --run; what was written before is"
            " untouched."
        ),
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable, with a final newline.

    Raises: UserError as ``write_atomic``, and for a text that no reader could encode: a name that
    is not UTF-8.
    """
    text = json.dumps(value, indent=1, default=plain_json)
    try:
        _check_halves(text, value)
    except UnicodeError as error:
        raise UserError(
            f"{path} would hold a name that is not Unicode.",
            got=ascii(str(error)),
            allowed="names in UTF-8",
            next="Rename the file or folder that the command named.",
        ) from error
    write_atomic(path, (text + "\n").encode())


def read_text(path: Path, *, next: str = AGAIN) -> str:
    """A text file as a whole. Raises: UserError where it is missing, no file, unreadable, huge or
    not UTF-8.
    """
    try:
        about = path.stat()
        check_is_file(path, about, next=next)
        if about.st_size > LARGEST_TEXT:
            raise UserError(
                f"{path} is too large.",
                got=f"{about.st_size:,} bytes",
                allowed=f"{LARGEST_TEXT:,} bytes",
                next=next,
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text.", got=error, allowed="UTF-8", next=next) from error
    except OSError as error:
        raise unreadable(path, error, next=next) from error


def check_is_file(path: Path, about: os.stat_result, *, next: str = AGAIN) -> None:
    """Raises: UserError for a folder, and for a pipe or device, which would be waited for."""
    if not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "a device or a pipe"
        raise UserError(f"{path} is not a file.", got=kind, allowed="a file", next=next)


def unreadable(path: Path, error: OSError, *, next: str = AGAIN) -> UserError:
    """The four-part form of an error of the file system, in reading."""
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{path.name} is missing.",
            got=path,
            allowed="a file that an earlier stage wrote",
            next=next,
        )
    return UserError(
        f"{path} cannot be read.",
        got=error.strerror or error,
        allowed="a file that you may read",
        next=next,
    )


def read_json(path: Path, shape: Any = Any, *, next: str = AGAIN) -> Any:
    """The JSON value in a file, of a shape. Raises: UserError where it is missing, broken or of
    another shape.
    """
    return parse_json(read_text(path, next=next), shape, what=str(path), next=next)


def parse_json(text: str, shape: Any = Any, *, what: str, next: str = AGAIN) -> Any:
    """The JSON value in a text; ``what`` names it in errors. Raises: UserError where it is broken
    or of another shape.
    """
    try:
        value = json.loads(text)
        _check_halves(text, value)
    except RecursionError as error:
        raise UserError(
            f"{what} is nested too deeply.", got=error, allowed="JSON of a few levels", next=next
        ) from error
    except ValueError as error:  # no JSON, half a character, or a number of thousands of digits
        raise UserError(
            f"{what} is not valid JSON.", got=error, allowed="JSON", next=next
        ) from error
    return require(value, shape, what=what, next=next)


def _check_halves(text: str, value: Any) -> None:
    # Written as \\ud800: half a character, which nothing can encode unless the other half follows.
    if _SURROGATE.search(text):
        json.dumps(value, default=plain_json, ensure_ascii=False).encode()


def read_arrays(path: Path, *, next: str = AGAIN) -> tuple[dict[str, str], dict[str, NDArray]]:
    """(metadata, tensors) of a small safetensors file. Raises: UserError where it is missing or
    damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_is_file(path, path.stat(), next=next)
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise unreadable(path, error, next=next) from error
    except (
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:  # TypeError: a dtype that numpy has not
        raise UserError(
            f"{path} is damaged.",
            got=error,
            allowed="a safetensors file that minipuzzle wrote",
            next=next,
        ) from error


def plain_json(value: Any) -> Any:
    """``json``'s default for what our files hold: numpy's numbers and paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {type(value)}")


Array = NDArray[np.float64]
Curve = tuple[NDArray[np.int64], Array]
WIDTHS = ("intermediate", "head_channels", "q_heads")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How much each part of a parent matters; higher is kept. All values float64.

    ``blocks`` [n_blocks]: damage done by removing block i alone. ``intermediate`` block ->
    [intermediate]: FFN channels. ``head_channels`` block -> [heads, head_dim]: channels of the
    Mamba x projection, from which both head and head-channel scores follow (arXiv:2504.11409,
    section 3.1). ``q_heads`` block -> [q_heads]: attention heads. ``layers`` [n_layers]: damage of
    removing layer i, where a layer is several blocks that stay or go together. ``hidden`` [hidden]:
    hidden channels of the whole model. ``curves`` block -> axis ("intermediate", "heads",
    "kv_heads") -> (sizes int64 ascending, errors): damage, as in ``blocks``, of narrowing block i
    alone to a size; the whole size does none. ``meta`` says how they were measured.
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
        tensors |= {
            f"blocks.{i}.{axis}": s for axis in WIDTHS for i, s in getattr(self, axis).items()
        }
        tensors |= {
            name: value
            for name in ("hidden", "layers")
            if (value := getattr(self, name)) is not None
        }
        for i, axes in self.curves.items():
            for axis, (sizes, errors) in axes.items():
                tensors |= {
                    f"blocks.{i}.curve.{axis}.sizes": sizes,
                    f"blocks.{i}.curve.{axis}.errors": errors,
                }
        about = {
            "schema": SCHEMA,
            "blocks": "[n_blocks] damage of removing one block",
            "layers": "[n_layers] damage of removing one layer of several blocks",
            "blocks.N.intermediate": "[intermediate] FFN channel score",
            "blocks.N.head_channels": "[heads, head_dim] Mamba x-projection channel score",
            "blocks.N.q_heads": "[q_heads] attention head score",
            "hidden": "[hidden] hidden channel score",
            "blocks.N.curve.AXIS.sizes": "sizes of AXIS that block N was narrowed to, ascending",
            "blocks.N.curve.AXIS.errors": (
                "damage of narrowing block N alone to each of those sizes"
            ),
            "meta": self.meta,
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        write_atomic(
            path, save(arrays, metadata={"minipuzzle": json.dumps(about, default=plain_json)})
        )

    @staticmethod
    def load(path: Path) -> Scores:
        """Read what ``save`` wrote. Raises: UserError where it is missing or of another schema."""
        again = "Run minipuzzle score in this run directory; delete the file first if it is kept."
        if not path.exists():
            raise UserError(
                "There are no scores here.",
                got=path,
                allowed="a scores file written by minipuzzle score",
                next="Run minipuzzle score first, in the same run directory.",
            )
        metadata, tensors = read_arrays(path, next=again)
        about = parse_json(
            metadata.get("minipuzzle", "{}"), _About, what=f"The header of {path}", next=again
        )
        if about["schema"] != SCHEMA:
            raise UserError(
                f"{path} has another schema.", got=about["schema"], allowed=SCHEMA, next=again
            )
        named = {tuple(name.split(".")): array for name, array in tensors.items()}
        if fault := _fault_of_scores(named):
            raise UserError(
                f"{path} does not hold scores.",
                got=fault,
                allowed="what minipuzzle score wrote",
                next=again,
            )
        widths: Any = {
            axis: {int(n[1]): a for n, a in named.items() if n[2:] == (axis,)} for axis in WIDTHS
        }
        curves: dict[int, dict[str, Curve]] = {}
        for n, sizes in named.items():
            if n[2:3] == ("curve",) and n[4] == "sizes":
                curves.setdefault(int(n[1]), {})[n[3]] = (sizes, named[*n[:4], "errors"])
        return Scores(
            blocks=tensors["blocks"],
            hidden=tensors.get("hidden"),
            layers=tensors.get("layers"),
            curves=curves,
            meta=about["meta"],
            **widths,
        )


class _About(TypedDict):
    schema: int
    meta: dict[str, Any]


def _fault_of_scores(named: dict[tuple[str, ...], NDArray]) -> str:
    """What is wrong with the tensors of a scores file, by the parts of their names; empty for
    nothing.
    """
    if ("blocks",) not in named:
        return "no tensor blocks"
    count = len(named["blocks",]) if named["blocks",].ndim == 1 else 0
    for name, array in named.items():
        known = name in (("blocks",), ("hidden",), ("layers",))
        if not known and (
            len(name) < 3 or name[0] != "blocks" or name[1] not in map(str, range(count))
        ):
            return f"a tensor {'.'.join(name)}, of a model of {count} blocks"
        if not known and not (
            name[2:] in [(axis,) for axis in WIDTHS] or (name[2] == "curve" and len(name) == 5)
        ):
            return f"a tensor {'.'.join(name)}"
        sizes = name[-1] == "sizes" and name[2:3] == ("curve",)
        if array.dtype != (np.int64 if sizes else np.float64) or array.ndim != (
            2 if name[-1] == "head_channels" else 1
        ):
            return f"{'.'.join(name)} of {array.dtype}, {array.ndim} dimensions"
        if array.size == 0 or not np.isfinite(array).all():
            return f"{'.'.join(name)} is empty or not finite"
        if sizes and (
            len(named.get((*name[:4], "errors"), ())) != len(array) or (np.diff(array) <= 0).any()
        ):
            return f"{'.'.join(name)} not ascending, or not one for each error"
    return ""
