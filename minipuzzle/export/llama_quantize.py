"""K- and IQ-formats of GGUF by llama.cpp's own ``llama-quantize``, which chooses a type for each
tensor and rounds by what its matrix reads on a text (the importance matrix).

Source: llama.cpp, tools/quantize/quantize.cpp, tools/imatrix/imatrix.cpp, src/llama-quant.cpp.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import Tensor

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import InternalError, UserError
from minipuzzle.export.gguf_tensor import GgufTensor, stored_bytes
from minipuzzle.export.inputs import Squares

log = logging.getLogger(__name__)

TOOL = "llama-quantize"
FORMATS = (
    *("q2_k", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m"),
    *("q6_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs"),
    *("iq3_s", "iq3_m", "iq4_xs", "iq4_nl"),
)
"""Its names of what most tensors become."""
IMPORTANCE = "imatrix.gguf"
TEXT = "calibration text of minipuzzle"
"""What it writes into the file as the origin of the importance matrix."""
LINES = 3
"""Of its last ones in an error."""
PLANNED = re.compile(
    r"^\[ *\d+/ *\d+\] +(\S+) +- \[([\d, ]+)\], type = +(\w+), size = [^(\n]*(?:\((\w+)\))?$",
    re.MULTILINE,
)
"""A line of its --dry-run: name, shape, type before and, where that changes, type after."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """What matrices read, ``squares`` by canonical name, on so many ``blocks`` of text of
    ``length`` tokens.
    """

    squares: Mapping[str, Squares]
    blocks: int
    length: int


def tool() -> str:
    """Where it is. Raises: UserError where it is not on PATH."""
    found = shutil.which(TOOL)
    if found is None:
        raise UserError(
            f"{TOOL}, which writes K- and IQ-formats, is not installed.",
            got="nothing of that name on PATH",
            allowed="llama.cpp's own, 2026-02 or later (--dry-run)",
            next="Install llama.cpp (brew install llama.cpp, or a release of it) and put it on"
            " PATH; or change export.dtype to q8_0, which needs nothing.",
        )
    return found


def quantise(
    library: ModuleType,
    checkpoint: Checkpoint,
    tensors: Sequence[GgufTensor],
    source: Path,
    format: str,
    importance: Importance | None,
) -> tuple[Path, dict[str, tuple[str, int]]]:
    """The file beside ``source`` that it makes of it, and the (type, columns) of each tensor;
    ``tensors`` are those of both files. What its --dry-run says of them is logged first.

    Raises: UserError with its last lines where it fails; InternalError where a tensor has another
    type than was planned.
    """
    options = []
    if importance is not None:
        _write(library, checkpoint, source.with_name(IMPORTANCE), tensors, importance)
        options = ["--imatrix", IMPORTANCE]
    made = source.with_name(f"{format}.gguf")
    plan = _planned(library, _called(source, ["--dry-run", *options, source.name, format.upper()]))
    # names alone: it writes that of the importance matrix into the file
    said = _called(source, [*options, source.name, made.name, format.upper()])
    if not made.exists():
        raise _failed(format, said)
    found = _types(library, made)
    if found != plan:
        other = min(set(found.items()) ^ set(plan.items()))
        raise InternalError(f"{format}: {other} is not both planned and written")
    return made, found


def _called(source: Path, words: list[str]) -> str:
    done = subprocess.run(
        [tool(), *words],
        cwd=source.parent,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode:
        raise _failed(words[-1].lower(), f"{said}\nexit code {done.returncode}")
    return said


def _failed(format: str, said: str) -> UserError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return UserError(
        f"{TOOL} did not write {format}.",
        got=" / ".join(lines[-LINES:]),
        allowed="a format and a model that it knows; --dry-run, which it has since 2026-02",
        next="Change export.dtype; q2_k_s and iq1 to iq3 want export.samples 1 or more.",
    )


def _planned(library: ModuleType, said: str) -> dict[str, tuple[str, int]]:
    """(type, columns) of each tensor of the file to be, by name."""
    plan, before, after, count = {}, 0, 0, 0
    for name, shape, old, new in PLANNED.findall(said):
        sizes = [int(size) for size in shape.split(",")]
        plan[name] = ((new or old).upper(), sizes[0])
        before += stored_bytes(library, old, sizes)
        after += stored_bytes(library, new or old, sizes)
        count += prod(sizes)
    if not plan:
        raise _failed("a plan", said)
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(k for k, _ in plan.values()).items())
    log.info(
        f"gguf: {before:,} bytes of tensors become {after:,}, {8 * after / count:.2f} bits a"
        f" weight: {kinds}"
    )
    return plan


def _write(
    library: ModuleType,
    checkpoint: Checkpoint,
    path: Path,
    tensors: Sequence[GgufTensor],
    importance: Importance,
) -> None:
    shapes = {tensor.name: tensor.shape for tensor in checkpoint.architecture.tensors()}
    writer = library.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [TEXT])
    writer.add_uint32("imatrix.chunk_count", importance.blocks)
    writer.add_uint32("imatrix.chunk_size", importance.length)
    for tensor in tensors:
        if tensor.source in importance.squares:
            found = importance.squares[tensor.source]
            sums = _columns(tensor, found.sums, shapes[tensor.source])  # [experts, columns]
            writer.add_tensor(f"{tensor.name}.in_sum2", sums)
            counts = found.counts[:, None].numpy().astype(np.float32)  # [experts, 1]
            writer.add_tensor(f"{tensor.name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _columns(tensor: GgufTensor, sums: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Sums [experts, columns] in the order of the file's columns, FP32."""
    # every row of our matrix is the sums: a row of what it is converted to has them in place
    rows = sums.float()[:, None].expand(-1, *shape[-2:])  # [experts, rows, columns]
    converted = tensor.convert(rows if len(shape) == 3 else rows[0])
    return converted[..., 0, :].reshape(len(sums), -1).numpy().copy()


def _types(library: ModuleType, path: Path) -> dict[str, tuple[str, int]]:
    """(type, columns) of each tensor of a file, by name."""
    return {
        tensor.name: (tensor.tensor_type.name, int(tensor.shape[0]))
        for tensor in library.GGUFReader(path).tensors
    }
