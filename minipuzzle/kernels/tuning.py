"""What Triton finds out about its kernels, kept for the next process, and what it found elsewhere.

Tuning the scan's kernels takes a minute at an 8B's shapes. Triton keeps compiled kernels on disk by
itself, but the timings that choose among them only where TRITON_CACHE_AUTOTUNING says so, and
PyTorch's compiler moves its folder under /tmp, which a machine may empty.
"""

from __future__ import annotations

import json
import lzma
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import write_json
from minipuzzle.errors import UserError

KEEP, FOLDER = "TRITON_CACHE_AUTOTUNING", "TRITON_CACHE_DIR"
SHIPPED = Path(__file__).with_name("tuned.json.xz")
"""What an H200 chose with Triton 3.6, mamba-ssm 2.3.2.post1 and fla-core 0.6.0, by its place in
Triton's folder: the hash of the kernel's source, the compiler, the kind of GPU and the shape, so
that no other ever finds it (triton 3.6, runtime/autotuner.py). Made by studies/gpu/tuned.py.
"""


def keep_tuning() -> None:
    """Let Triton keep its timings, and all it makes, in the user's cache from now on, unless the
    environment says otherwise, and begin with what was chosen elsewhere: before kernels are
    imported, which read it then.
    """
    os.environ.setdefault(KEEP, "1")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(cache):  # else there is no home
        os.environ.setdefault(FOLDER, str(Path(cache) / "minipuzzle" / "triton"))
    folder = os.environ.get(FOLDER)
    if folder and os.environ[KEEP] == "1":
        begin(Path(folder))


def begin(folder: Path) -> None:
    """Write into Triton's folder what is shipped and it has not found itself."""
    with suppress(UserError):  # a folder that cannot be written: Triton tunes, as without this
        for place, chosen in shipped().items():
            if not (folder / place).exists():
                write_json(folder / place, chosen)


def shipped() -> dict[str, Any]:
    """Settings and milliseconds as Triton keeps them in JSON, by "HASH/KERNEL.autotune.json"."""
    found: dict[str, Any] = json.loads(lzma.decompress(SHIPPED.read_bytes()))
    return found
