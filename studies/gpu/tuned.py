"""What Triton chose on a GPU, for those who come after: minipuzzle/kernels/tuned.json.xz from cache
folders of a machine, or archives of them (tuned.tgz, which both.sh brings back).

    python studies/gpu/tuned.py FOLDER|ARCHIVE ...

Of each kernel and shape the best setting with its milliseconds; what is in the file already stays,
unless it is found anew.
"""

from __future__ import annotations

import json
import lzma
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from minipuzzle.kernels.tuning import SHIPPED, shipped

ENDING = ".autotune.json"


def found(source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files."""
    if source.is_dir():
        yield from ((str(p), p.read_bytes()) for p in source.rglob(f"*{ENDING}"))
        return
    with tarfile.open(source) as archive:
        for member in archive:
            if member.name.endswith(ENDING) and (file := archive.extractfile(member)):
                yield member.name, file.read()


def main() -> None:
    """Merge and write."""
    tuned = shipped() if SHIPPED.exists() else {}
    for source in map(Path, sys.argv[1:]):
        for name, content in found(source):
            kept = json.loads(content)
            best = min(kept["configs_timings"], key=lambda timed: timed[1])
            place = PurePosixPath(name)
            tuned[f"{place.parent.name}/{place.name}"] = {**kept, "configs_timings": [best]}
    text = json.dumps(tuned, separators=(",", ":"), sort_keys=True)
    SHIPPED.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(tuned)} kernels and shapes, {SHIPPED.stat().st_size} bytes")


if __name__ == "__main__":
    main()
