"""One command of eight.py in this process, whose peaks are written to a file when it ends.

python studies/gpu/eight_watched.py PEAKS score ...         a command line of minipuzzle
python studies/gpu/eight_watched.py PEAKS make CHECKPOINT WORK DEVICE [tiny]
"""

from __future__ import annotations

import bz2
import json
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VALIDATION_CHARACTERS = 1_200_000
"""Of each domain at most: 128 blocks of 512 tokens and more in either half."""


def main() -> None:
    """Run, and write the peaks whatever comes."""
    peaks, stage, *words = sys.argv[1:]
    try:
        if stage == "make":
            make(Path(words[0]), Path(words[1]), words[2], tiny=words[3:] == ["tiny"])
        else:
            from minipuzzle.cli import main as minipuzzle

            sys.argv = ["minipuzzle", stage, *words]
            minipuzzle()
    finally:
        Path(peaks).write_text(json.dumps(measured()))


def measured() -> dict[str, int]:
    """Bytes at most: of this process, and on its GPU."""
    found = {"cpu_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_allocated"] = torch.cuda.max_memory_allocated()
        found["gpu_reserved"] = torch.cuda.max_memory_reserved()
    return found


def make(checkpoint: Path, work: Path, device: str, tiny: bool) -> None:
    """A random checkpoint of the 8B's shape, with the embedded tokenizer, and texts that it has
    words for.
    """
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from random_checkpoint import write

    from minipuzzle import embedded
    from minipuzzle.checkpoint import read_config

    architecture = read_config(ROOT / "docs/examples/nemotron-h-8b")[1]
    if tiny:  # the embedded teacher's blocks, with its vocabulary
        architecture = read_config(embedded.teacher_path())[1]
        architecture = replace(architecture, blocks=architecture.blocks[:8])
    write(architecture, checkpoint, device)
    for file in embedded.teacher_path().glob("tokenizer*"):
        shutil.copy(file, checkpoint)
    for which in ("train", "validation"):
        files = sorted(embedded.text_path(which).glob("*.txt.bz2"))
        texts = [bz2.decompress(file.read_bytes()).decode() for file in files]
        limit = (20_000 if tiny else VALIDATION_CHARACTERS) if which == "validation" else None
        (work / f"{which}.txt").write_text("\n".join(text[:limit] for text in texts))


if __name__ == "__main__":
    main()
