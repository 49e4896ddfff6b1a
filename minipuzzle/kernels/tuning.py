"""What Triton finds out about its kernels, kept for the next process.

Tuning the scan's kernels takes a minute at an 8B's shapes. Triton keeps compiled kernels on disk by
itself, but the timings that choose among them only where TRITON_CACHE_AUTOTUNING says so, and
PyTorch's compiler moves its folder under /tmp, which a machine may empty.
"""

from __future__ import annotations

import os
from pathlib import Path

KEEP, FOLDER = "TRITON_CACHE_AUTOTUNING", "TRITON_CACHE_DIR"


def keep_tuning() -> None:
    """Let Triton keep its timings, and all it makes, in the user's cache from now on, unless the
    environment says otherwise: before kernels are imported, which read it then.
    """
    os.environ.setdefault(KEEP, "1")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(cache):  # else there is no home
        os.environ.setdefault(FOLDER, str(Path(cache) / "minipuzzle" / "triton"))
