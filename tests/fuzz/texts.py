"""Texts: files of every kind, folders, paths, instructions."""

import bz2
import gzip
import io
import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import DEEP, TRAINING, cpu, score, write

LINES = {
    "a field is missing": '{"text": "a"}\n{"tex": "b"}',
    "list": "[]\n",
    "null": '{"text": null}\n',
    "number": '{"text": 5}\n',
    "cut": '{"text": "abc',
    "not text": b"\xff\xfe\n",
    "no lines": "\n\n",
    "deep": DEEP + "\n",
    "nan": '{"text": NaN}\n',
    "long": json.dumps({"text": "ab " * 100_000}),
    "half a character": '{"text": "\\ud800 lone"}\n' * 5000,
    "word": '"text"\n',
    "byte order mark": "\ufeff" + json.dumps({"text": "ab " * 10_000}),
    "digits": '{"text": ' + "9" * 5000 + "}\n",
}
PATHS = (
    "/dev/null",
    "/dev/zero",
    "/dev/stdin",
    "/dev/full",
    "/proc/self/mem",
    "/etc",
    "/etc/shadow",
    "-",
    "",
    "http://x/y.txt",
    "a\0b.txt",
    "text.txt/",
    "~/.x",
    "Embedded",
    "a" * 5000,
    "/proc/1/environ",
)
INSTRUCTIONS = {
    "no answer": '{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n',
    "numbers": '{"prompt": 1, "answer": 2}\n',
    "empty": '{"prompt": "a", "answer": ""}\n',
    "long": json.dumps({"prompt": "ab " * 5000, "answer": "x"}),
    "not text": b'{"prompt": "a", "answer": "b"}\n\xff\xfe\n',
    "list": '{"prompt": "a", "answer": "b"}\n[]\n',
    "half": '{"prompt": "\\ud800", "answer": "b"}\n',
    "both": '{"prompt": "a", "answer": "b", "text": "c"}\n',
    "first not text": b"\xff\n",
    "deep": DEEP,
    "messages": '{"messages": [{"role": "user", "content": "a"}]}\n',
}


def cases(base: Path) -> Iterator[tuple[Any, ...]]:
    """The text to score on, and instructions to adapt to."""
    text = (base / "text.txt").read_bytes()
    plain = {
        "empty.txt": b"",
        "space.txt": b" \n\n  \n",
        "short.txt": b"hello",
        "bad.txt": b"hello \xff\xfe world " * 2000,
        "utf16.txt": text[:4000].decode().encode("utf16"),
        "zero.txt": bytes(50_000),
        "line.txt": b"a" * 300_000,
        "half.txt": b"\xed\xa0\x80" * 5000,
        "latin.txt": "né ".encode("latin-1") * 5000,
        "x.pdf": text,
        "noend": text,
        "x.TXT": text,
        ".hidden.txt": text,
        "LICENSE.txt": text,
    }
    plain |= {f"{name}.jsonl": data for name, data in LINES.items()}
    for end, pack in (("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)):
        whole = pack(text)
        plain |= {
            f"t.txt.{end}": b"not compressed",
            f"u.txt.{end}": b"",
            f"j.jsonl.{end}": b"\x1f\x8b\x08\x00cut",
            f"cut.txt.{end}": whole[:-500],
            f"middle.txt.{end}": whole[:500] + b"x" * 50 + whole[550:],
            f"bad.txt.{end}": pack(b"\xff\xfe " * 3000),
        }
    plain |= {"bad.parquet": b"PAR1xxxxPAR1", "empty.parquet": b"", **_parquets()}
    for name, data in plain.items():
        yield name, score("ck", data=name), write(name, data)
        if name.endswith((".gz", ".bz2", "latin.txt", "bad.txt")):
            yield f"adapt: {name}", _adapt(name), write(name, data)
    yield "empty folder", score("ck", data="d"), lambda folder: (folder / "d").mkdir()
    yield "folder of others", score("ck", data="d"), write("d/a.bin", b"x")
    yield "folder.txt", score("ck", data="d.txt"), lambda folder: (folder / "d.txt").mkdir()
    yield "pipe", score("ck", data="f.txt"), lambda folder: os.mkfifo(folder / "f.txt")
    yield (
        "pipe in a folder",
        score("ck", data="d"),
        lambda folder: ((folder / "d").mkdir(), os.mkfifo(folder / "d/a.txt")),
    )
    yield (
        "link to itself",
        score("ck", data="l.txt"),
        lambda folder: os.symlink("l.txt", folder / "l.txt"),
    )
    yield (
        "dangling link",
        score("ck", data="l.txt"),
        lambda folder: os.symlink("nope", folder / "l.txt"),
    )
    for path in PATHS:
        yield f"path {path[:20]!r}", score("ck", data=path)
    for name, data in INSTRUCTIONS.items():
        yield f"instructions: {name}", _adapt("i.jsonl"), write("i.jsonl", data)


def _adapt(data: str) -> tuple[Any, ...]:
    return cpu("adapt", "ck", "--run", "out", "--data", data, *TRAINING)


def _parquets() -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def saved(values: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        pq.write_table(pa.table(values), file)
        return file.getvalue()

    whole = saved({"text": [f"w{i} " * 500 for i in range(50)]})
    return {
        "cut.parquet": whole[:-1],
        "cut more.parquet": whole[:-50],
        "other.parquet": saved({"body": ["x"]}),
        "null.parquet": saved({"text": ["a" * 5000, None]}),
        "numbers.parquet": saved({"text": [1, 2]}),
        "no rows.parquet": saved({"text": pa.array([], pa.string())}),
        "lists.parquet": saved({"text": [["a"], ["b"]]}),
        "bytes.parquet": saved({"text": [b"abc" * 5000]}),
        "tables.parquet": saved({"text": [{"text": "a"}]}),
        "middle.parquet": whole[:200] + bytes(b ^ 0x5A for b in whole[200:1200]) + whole[1200:],
    }
