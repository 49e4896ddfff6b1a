"""How fast a checkpoint is loaded, beside plain reads of the same files.

    python benchmarks/loading.py --folder /dev/shm --layers 3 --out loading.json
    python benchmarks/loading.py --folder /dev/shm --layers 52 --device cuda --out loading.json

A random checkpoint of the 8B's shape is written to --folder and read once, so that it lies in
memory. Rows: "plain", the files read piece by piece into one buffer by one thread; "into", every
tensor by ``Checkpoint.read_into`` into memory that is there, as it is stored; "model",
``load_frozen`` (on a CPU ``load_model`` in BF16), fresh memory included. By wall and by processor
seconds: on a busy machine only the latter say much. docs/results/loading.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from random_checkpoint import slice_of, write

from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.model import load_frozen, load_model

SHAPE = Path(__file__).resolve().parent.parent / "docs/examples/nemotron-h-8b"
BUFFER = 1 << 24


def main() -> None:
    """Write, read, print, and remove what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=SHAPE)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="read this one, write none")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    made = Path(tempfile.mkdtemp(dir=options.folder, prefix="loading-"))
    try:
        path = options.checkpoint or made / "checkpoint"
        if options.checkpoint is None:
            architecture = slice_of(read_config(options.config)[1], options.layers)
            write(architecture, path, options.device)
        found = measured(Checkpoint.open(path), torch.device(options.device), options.repeats)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    for name, row in found["rows"].items():
        print(f"{name:6} {row['GB/s']:6.2f} GB/s, {row['GB/s of a processor']:6.2f} of a processor")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def measured(checkpoint: Checkpoint, device: torch.device, repeats: int) -> dict[str, object]:
    """The best of some rounds of each row, in turn."""
    dtype = torch.bfloat16
    held = {
        t.name: torch.empty(t.shape, dtype=dtype, device=device)
        for t in checkpoint.architecture.tensors()
    }

    def plain() -> None:
        buffer = bytearray(BUFFER)
        for file in sorted(checkpoint.path.glob("*.safetensors")):
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass

    def into() -> None:
        for name, tensor in held.items():
            checkpoint.read_into(name, tensor)

    def model() -> None:
        if device.type == "cpu":
            load_model(checkpoint, dtype=dtype)
        else:
            load_frozen(checkpoint, device=device)

    rows: dict[str, dict[str, float]] = {}
    ways: dict[str, Callable[[], None]] = {"plain": plain, "into": into, "model": model}
    plain()
    for _ in range(repeats):
        for name, way in ways.items():
            wall, busy = time.perf_counter(), time.process_time()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            row = {
                "GB/s": checkpoint.bytes / (time.perf_counter() - wall) / 1e9,
                "GB/s of a processor": checkpoint.bytes / (time.process_time() - busy) / 1e9,
            }
            best = rows.setdefault(name, row)
            rows[name] = {key: max(best[key], value) for key, value in row.items()}
    return {"bytes": checkpoint.bytes, "device": str(device), "torch": torch.__version__} | {
        "rows": rows
    }


if __name__ == "__main__":
    main()
