"""Results as docs/results keeps them: JSON, the larger ones compressed by `xz -9e` to a fifth (the
tree must stay small).
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any


def write(path: Path, found: Any) -> None:
    """A .json.xz."""
    data = (json.dumps(found, indent=1) + "\n").encode()
    path.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def read(path: Path) -> Any:
    """What is in a .json or a .json.xz."""
    data = path.read_bytes()
    return json.loads(lzma.decompress(data) if path.suffix == ".xz" else data)
