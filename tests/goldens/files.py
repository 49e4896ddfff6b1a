"""The other half of ``readers``: checkpoints, adapters and texts, and what machine this is."""

from __future__ import annotations

import bz2
import html
import json
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from minipuzzle.embedded import teacher_path

from . import values
from .values import Line

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "minipuzzle" / "embedded"
TEACHER = teacher_path()
TIMED = r"tokens/s|seconds|date|time"
EXAMPLES = ROOT / "docs" / "examples"
SLOW_TO_IMPORT = (
    "torch._dynamo",
    "torch.distributed.tensor",
    "scipy.optimize",
    "safetensors.torch",
    "tokenizers",
    "typer.rich_utils",
    "jinja2",
    "yaml",
)


def report_numbers(prefix: str, run: Path) -> Iterator[Line]:
    """Numbers in the tables of report.html, without columns of speeds, seconds and dates."""
    page = (run / "report.html").read_text()
    for number, table in enumerate(re.findall(r"<table.*?</table>", page, re.S)):
        rows = [
            re.findall(r"<t[hd].*?</t[hd]>", cells, re.S)
            for cells in re.findall(r"<tr.*?</tr>", table, re.S)
        ]
        texts = [
            [html.unescape(re.sub(r"<[^>]+>", " ", cell)).replace("\n", " ") for cell in cells]
            for cells in rows
        ]
        timed = {column for column, title in enumerate(texts[0]) if re.search(TIMED, title)}
        text = "\n".join(
            "  ".join(cell for i, cell in enumerate(cells) if i not in timed) for cells in texts
        )
        yield from values.numbers(f"{prefix} / table {number}", text, "minipuzzle ")


def tensors(prefix: str, folder: Path) -> Iterator[Line]:
    """SHA-256 of each tensor of a checkpoint or an adapter, by its name."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]:
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                yield f"{prefix} / {name}", _tensor(opened.get_tensor(name))


def all_tensors(prefix: str, folder: Path) -> Iterator[Line]:
    """One SHA-256 of all tensors, names and shapes."""
    rows = list(tensors("", folder))
    yield prefix, f"{len(rows)} tensors {values.digest(repr(rows).encode())}"


def _tensor(tensor: Any) -> str:
    import torch

    data = (
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if tensor.numel()
        else b""
    )
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} {values.digest(data)}"


def gguf(prefix: str, file: Path) -> Iterator[Line]:
    """SHA-256 over all tensors of a GGUF file, with names, types and shapes."""
    from gguf import GGUFReader

    rows = [(t.name, t.tensor_type.name, [int(n) for n in t.shape], values.digest(t.data.tobytes()))
            for t in GGUFReader(file).tensors]  # fmt: skip
    yield prefix, f"{len(rows)} tensors {values.digest(repr(sorted(rows)).encode())}"


def logits(prefix: str, folder: Path) -> Iterator[Line]:
    """float32 logits of a checkpoint on tokens that are always the same."""
    import torch

    from minipuzzle.checkpoint import Checkpoint
    from minipuzzle.model import load_model

    checkpoint = Checkpoint.open(folder)
    tokens = np.random.default_rng(7).integers(0, checkpoint.architecture.vocab_size, (2, 40))
    with torch.no_grad():
        made = load_model(checkpoint)(torch.from_numpy(tokens)).float().numpy()
    yield prefix, values.array(made)


def cut(folder: Path, kept: dict[str, Any], target: Path) -> None:
    """Cut a selection in the form of search.json out of a checkpoint."""
    from minipuzzle.arch import Selection
    from minipuzzle.checkpoint import Checkpoint
    from minipuzzle.surgery import cut as cut_checkpoint

    blocks = tuple(
        None if b is None else {axis: tuple(of) for axis, of in b.items()} for b in kept["blocks"]
    )
    hidden = None if kept["hidden"] is None else tuple(kept["hidden"])
    cut_checkpoint(Checkpoint.open(folder), Selection(blocks=blocks, hidden=hidden), target)


def write_form(folder: Path, config: dict[str, Any]) -> None:
    """A checkpoint whose every weight follows from its name; the embedded teacher's tokenizer."""
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    made = {}
    for name, shape in _names_and_shapes(folder).items():
        rng = np.random.default_rng(int(values.digest(name.encode())[:12], 16))
        noise = rng.standard_normal(shape) * (0.15 if len(shape) == 2 else 0.3)
        made[name] = (noise + ("norm" in name and len(shape) == 1)).astype(np.float32)
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((TEACHER / name).read_bytes())


def _names_and_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The tensors that a config.json means, by their first name in a Hugging Face file."""
    from minipuzzle import families
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.checkpoint.pieces import piece_shapes
    from minipuzzle.families import names_of

    config, architecture = read_config(folder)
    names = families.find(config["model_type"]).names(architecture)
    return {
        piece: shape
        for tensor in architecture.tensors()
        for accepted in names[tensor.name][:1]
        for piece, shape in zip(names_of(accepted), piece_shapes(tensor, accepted), strict=True)
    }


def write_pretrain_recipe(file: Path, config: dict[str, Any], text: Path) -> None:
    """A recipe of two steps on a CPU, for ``minipuzzle pretrain``."""
    data = {"train": str(text), "validation": str(text), "length": 32}
    training = {"tokens": 256, "batch": 4, "learning_rate": 1e-3}
    file.write_text(
        json.dumps(
            {
                "model": config,
                "tokenizer": "embedded",
                "data": data,
                "training": training,
                "device": "cpu",
            }
        )
    )


def identity(prefix: str, folder: Path) -> Line:
    """What a checkpoint is known by: config and weights."""
    from minipuzzle.checkpoint import Checkpoint

    return prefix, Checkpoint.open(folder).fingerprint


def run_keys(prefix: str, run: Path) -> Iterator[Line]:
    """What the finished stages of a run directory are compared by."""
    for stage, about in json.loads((run / "run.json").read_text())["stages"].items():
        yield f"{prefix} / {stage}", about["key"]


def write_texts(folder: Path) -> Path:
    """A folder with two short texts, each a domain: beginnings of the embedded validation text."""
    folder.mkdir()
    for name in ("docs", "speeches"):
        with bz2.open(EMBEDDED / "validation" / f"{name}.txt.bz2", "rt") as whole:
            (folder / f"{name}.txt").write_text(whole.read(4000))
    return folder


def load_libraries() -> None:
    """Import what takes seconds, and nothing of minipuzzle."""
    import torch

    for name in SLOW_TO_IMPORT:
        import_module(name)
    torch.set_num_threads(1)


def machine() -> str:
    """What decides over the last bits of a sum: processor, instructions, libraries."""
    import scipy
    import torch

    about = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    vendor = re.search(r"vendor_id\s*: (\S+)", about)
    level = torch.backends.cpu.get_cpu_capability()
    libraries = f"torch {torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    return f"{vendor[1] if vendor else 'unknown'} {level}, {libraries}"
