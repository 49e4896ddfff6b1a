r"""Makes the tasks of studies/tied_lora.py from the shared texts, and the recovery text and
students.

    python studies/tied_lora_tasks.py --shared ../shared/data --out .carry/tied_lora

manual      LAMBADA-style, a domain that the teacher was not trained on (docs): which word follows a
passage? Trained on
            plain text of other documents; exact match of the whole word. Not among the defaults: \
                LoRA moved it from
            11 % to 14 % in the pilot, too little to tell combinations apart.
field       GCIDE, the dictionary: of which of eight fields (zoology, botany, ...) is this entry?
Tested on pages that neither
            the teacher nor the adapter saw, equally many of each field; exact match, chance 12.5 %.
source      Which of eight manuals is a passage of 240 characters from? Exact match; chance 12.5 %.
recall      Sixteen pairs of dictionary words, then one of the first words: its partner? Exact
match. recovery    Prose and code of the teacher's own training text (see docs/results/embedded.md)
for the pruned students.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import random
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.data.documents import SEPARATOR, read_documents
from minipuzzle.embedded.corpus import PROSE_SHARE, chance
from minipuzzle.importance import score
from minipuzzle.settings import ScoreSettings

ENTRY = re.compile(r"^([A-Z][a-z]{2,}) , (n|v\. t|v\. i|a|adv)\. (.+)$", re.MULTILINE)
BRACKETS = re.compile(r"\[[^\]]*\]|\([^)]*\)")
TRAIN, TEST = 12_000, 600
MANUAL_BYTES, RECOVERY_BYTES = 6_000_000, 14_000_000
PASSAGE = 240
FIELDS = {
    "Zool.": "zoology",
    "Bot.": "botany",
    "Chem.": "chemistry",
    "Med.": "medicine",
    "Anat.": "anatomy",
    "Min.": "minerals",
    "Naut.": "ships",
    "Mus.": "music",
}
SOURCES = {
    "cppreference": r"From cppreference\.com",
    "man": r"^\S+\(\d\S*\) ",
    "PostgreSQL": r"^\d+\.\d+\. .*\n|pg_catalog",
    "SciPy": r"^scipy\.",
    "Django": r"^Django \d",
    "Perl": r"^NAME\n\nperl",
    "LibreOffice": r"Basic|Calc|Writer",
    "Python": r"Python \d\.\d+\.\d+ documentation|^Source code: Lib/",
}


def main() -> None:
    """Make everything and print what it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    texts = {
        f"{g}.{s}": list(read_documents(options.shared / f"{g}.{s}.txt.xz"))
        for g in ("prose", "docs", "code")
        for s in ("train", "val", "calib")
    }
    make_fields(texts, options.out)
    make_recall(texts, options.out)
    make_sources(texts, options.out)
    make_manual(texts, options.out)
    make_recovery(texts, options.out)
    make_scores(options.out)
    print(f"{sum(f.stat().st_size for f in options.out.iterdir()):,} bytes in {options.out}")


def make_fields(texts: dict[str, list[str]], out: Path) -> None:
    """Entries and the field that the dictionary puts them in, the label itself taken out."""
    unseen = sorted(d for d in texts["prose.train"] if chance(d) >= PROSE_SHARE)
    seen = sorted(d for d in texts["prose.train"] if chance(d) < PROSE_SHARE)
    held = by_field([*texts["prose.val"], *texts["prose.calib"], *unseen])
    words = {row["prompt"] for rows in held.values() for row in rows}
    least = min(TEST // len(FIELDS), *map(len, held.values()))
    train = {f: [r for r in rows if r["prompt"] not in words] for f, rows in by_field(seen).items()}
    print("field: " + ", ".join(f"{f} {len(train[f])} + {len(held[f])}" for f in held))
    write_rows(
        out / "field.test",
        shuffled([row for rows in held.values() for row in shuffled(rows)[:least]]),
    )
    write_rows(
        out / "field.train",
        shuffled([r for rows in train.values() for r in shuffled(rows)[: TRAIN // len(FIELDS)]]),
    )


def by_field(documents: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Examples by field."""
    found: dict[str, list[dict[str, Any]]] = {field: [] for field in FIELDS.values()}
    for document in documents:
        for word, _, rest in ENTRY.findall(document):
            labels = re.findall(r"\((\w+\.)\)", rest)
            plain = " ".join(BRACKETS.sub("", rest).split())[:PASSAGE]
            if labels and labels[0] in FIELDS and len(plain) >= 30:
                field = FIELDS[labels[0]]
                found[field].append({"prompt": f"{word}: {plain}\nField:", "answer": f" {field}"})
    return found


def entries(documents: Iterable[str]) -> list[tuple[str, str, str]]:
    """(headword, part of speech, first sentence of its definition) of dictionary pages."""
    found = {}
    for document in documents:
        for word, part, rest in ENTRY.findall(document):
            meaning = BRACKETS.sub("", rest).strip().split(". ")[0].strip(" .;")
            plain = " ".join(meaning.split())
            if (
                30 <= len(plain) <= 160
                and word[:4].lower() not in plain.lower()
                and word not in found
            ):
                found[word] = (word, part, plain[0].upper() + plain[1:] + ".")
    return sorted(found.values())


def make_recall(texts: dict[str, list[str]], out: Path) -> None:
    """Pairs of short dictionary words; those of the test occur in no training example."""
    words = sorted(
        {w.lower() for w, _, _ in entries(texts["prose.train"]) if len(w) <= 7}, key=digest
    )
    parts = {"test": words[:1500], "train": words[1500:]}
    for split, count in (("train", TRAIN), ("test", TEST)):
        rng = random.Random(split)
        rows = []
        for _ in range(count):
            chosen = rng.sample(parts[split], 32)
            pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
            key, value = rng.choice(pairs)
            listed = "\n".join(f"{k} = {v}" for k, v in pairs)
            rows.append({"prompt": f"{listed}\n{key} =", "answer": f" {value}"})
        write_rows(out / f"recall.{split}", rows)


def make_sources(texts: dict[str, list[str]], out: Path) -> None:
    """Passages from the middle of documents whose first lines say which manual they are of."""
    found: dict[str, list[list[str]]] = {name: [] for name in SOURCES}
    for document in texts["docs.train"]:
        named = [
            name
            for name, pattern in SOURCES.items()
            if re.search(pattern, document[:400], re.MULTILINE)
        ]
        if len(named) == 1:
            found[named[0]].append(passages(document, named[0]))
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for name, documents in found.items():
        print(f"source {name}: {len(documents)} documents")
        documents = shuffled(documents)
        cut = max(1, len(documents) // 5)
        for split, group, count in (
            ("test", documents[:cut], TEST),
            ("train", documents[cut:], TRAIN),
        ):
            here = shuffled([p for passages_ in group for p in shuffled(passages_)[:40]])[
                : count // len(SOURCES)
            ]
            rows[split] += [{"prompt": f"{p}\nManual:", "answer": f" {name}"} for p in here]
    for split, of_split in rows.items():
        write_rows(out / f"source.{split}", shuffled(of_split))


def passages(document: str, name: str) -> list[str]:
    """Pieces of 240 characters that do not name the manual."""
    body = " ".join(document[400:].split())
    cut = [body[i : i + PASSAGE] for i in range(0, min(len(body), 60_000) - PASSAGE, PASSAGE)]
    return [p for p in cut if name.lower() not in p.lower() and p.isascii()]


def make_manual(texts: dict[str, list[str]], out: Path) -> None:
    """Plain text, and passages that a word of at least four letters follows."""
    (out / "manual.train.txt.xz").write_bytes(packed(take(texts["docs.train"], MANUAL_BYTES)))
    rows = []
    for document in shuffled(texts["docs.val"] + texts["docs.calib"]):
        rng = random.Random(digest(document))
        places = [
            m for m in re.finditer(r" ([A-Za-z]{4,})(?=[ .,;:])", document) if m.start() > 300
        ]
        for m in rng.sample(places, min(12, len(places))):
            rows.append(
                {"prompt": document[max(0, m.start() - 500) : m.start()], "answer": m.group(0)}
            )
    write_rows(out / "manual.test", shuffled(rows)[: 2 * TEST])


def make_recovery(texts: dict[str, list[str]], out: Path) -> None:
    """Prose and code in the proportions of the teacher's text, without its validation documents."""
    held = set(
        (Path(__file__).parent.parent / "minipuzzle/embedded/heldout.txt").read_text().split()
    )
    prose = [d for d in texts["prose.train"] if digest(d) not in held]
    both = take(prose, RECOVERY_BYTES * 2 // 3) + take(texts["code.train"], RECOVERY_BYTES // 3)
    (out / "recovery.train.txt.xz").write_bytes(packed(both))
    (out / "recovery.val.txt.xz").write_bytes(packed(texts["prose.val"] + texts["code.val"]))


def make_scores(out: Path) -> None:
    """The scores of the embedded teacher that the students are cut by."""
    teacher, device = Checkpoint.open(embedded.teacher_path()), torch.device("cpu")
    blocks = load_blocks(
        out / "recovery.train.txt.xz",
        Tokenizer.load(embedded.teacher_path()),
        block_length=512,
        max_tokens=1_000_000,
    )
    settings = ScoreSettings(samples=128, block_samples=64, curves=False)
    with tempfile.TemporaryDirectory() as folder:
        score(teacher, blocks, settings, device=device, partial=Path(folder)).save(
            out / "scores.safetensors"
        )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as compressed JSON lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.with_name(path.name + ".jsonl.xz").write_bytes(lzma.compress(text.encode(), preset=6))
    print(f"{path.name}: {len(rows):,} examples; {rows[0]}")


def packed(documents: list[str]) -> bytes:
    """Documents as one compressed text."""
    return lzma.compress(SEPARATOR.join(documents).encode(), preset=6)


def take(documents: list[str], limit: int) -> list[str]:
    """Documents in the order of their hashes while they fit."""
    chosen, used = [], 0
    for document in sorted(documents, key=digest):
        size = len(document.encode())
        if used + size <= limit:
            chosen.append(document)
            used += size
    return chosen


def shuffled(items: list[Any]) -> list[Any]:
    """The items in an order that depends on them alone."""
    return sorted(items, key=lambda item: digest(str(item)))


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()
