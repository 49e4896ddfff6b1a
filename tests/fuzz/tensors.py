"""Weights: headers of safetensors files, their data, and the index of shards."""

import json
import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import (
    DEEP,
    MISSING,
    NO_FILES,
    RANDOM,
    cut,
    edit,
    header,
    in_place_of,
    put,
    remove,
    score,
    write,
)

FILE, INDEX = "ck/model.safetensors", "ck/model.safetensors.index.json"
SHARD = "ck/model-0000{}-of-00004.safetensors"
WRONG = {
    "data_offsets": {
        "beyond": [0, 10**12],
        "negative": [-8, 0],
        "backwards": [100, 0],
        "one": [0],
        "three": [0, 1, 2],
        "null": None,
        "text": "x",
        "fractions": [0.0, 1024.0],
        "truths": [False, True],
        "huge": [10**30, 10**30],
        "empty": [],
        "largest": [0, 2**63],
        "table": {},
    },
    "dtype": {
        "unknown": "F4",
        "lower case": "f32",
        "null": None,
        "number": 3,
        "list": [],
        "U64": "U64",
        "I64": "I64",
        "BOOL": "BOOL",
        "F8": "F8_E4M3",
        "F16": "F16",
    },
    "shape": {
        "negative": [-1],
        "zero": [0],
        "empty": [],
        "null": None,
        "text": "ab",
        "nested": [[1]],
        "huge": [10**18, 10**18],
        "fraction": [1.5],
        "truth": [True],
        "long": [1] * 5000,
    },
}
EMPTY = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}


def names(values: dict[str, Any]) -> list[str]:
    """The tensors of a header."""
    return [name for name in values if name != "__metadata__"]


def overlap(values: dict[str, Any], data: bytes) -> None:
    """The second tensor where the first is."""
    first, second = (values[name] for name in names(values)[:2])
    start = first["data_offsets"][0]
    second["data_offsets"] = [start, start + second["data_offsets"][1] - second["data_offsets"][0]]


def shared(values: dict[str, Any], data: bytes) -> None:
    """Two tensors of one shape that are the same bytes."""
    seen: dict[Any, Any] = {}
    for name in names(values):
        entry = values[name]
        other = seen.setdefault((entry["dtype"], *entry["shape"]), entry)
        if other is not entry:
            entry["data_offsets"] = other["data_offsets"]
            return


def renamed(new: str) -> Any:
    """The third tensor under another name."""
    return lambda values, data: (
        {new if n == names(values)[2] else n: v for n, v in values.items()},
        data,
    )


def with_first(value: Any) -> Any:
    """Another value for the first tensor."""
    return lambda values, data: ({**values, names(values)[0]: value}, data)


HEADERS = {
    "overlap": overlap,
    "shared": shared,
    "trailing": lambda v, d: (v, d + bytes(16)),
    "list": lambda v, d: ("[]", d),
    "null": lambda v, d: ("null", d),
    "cut header": lambda v, d: (json.dumps(v)[:-50], d),
    "a name twice": lambda v, d: (
        json.dumps(v)[:-1] + "," + json.dumps({names(v)[0]: v[names(v)[0]]})[1:],
        d,
    ),
    "metadata list": lambda v, d: ({**v, "__metadata__": [1]}, d),
    "tensor list": with_first([]),
    "tensor null": with_first(None),
    "metadata number": lambda v, d: ({**v, "__metadata__": {"a": 1}}, d),
    "tensor empty": with_first({}),
    "one more": lambda v, d: ({**v, "more": EMPTY}, d),
    "none": lambda v, d: ({"__metadata__": {}}, b""),
    "one less": lambda v, d: ({n: e for n, e in v.items() if n != names(v)[2]}, d),
    "renamed": renamed("../x"),
    "empty name": renamed(""),
    "prefix": lambda v, d: ({f"module.{n}": v[n] for n in names(v)}, d),
    "half a character": lambda v, d: ({**v, "\ud800": EMPTY}, d),
    "deep": lambda v, d: ('{"a":' * 100_000, d),
    "digits": lambda v, d: ('{"a": ' + "9" * 5000 + "}", d),
    "spaces": lambda v, d: (" " * 100 + json.dumps(v), d),
    "longest header": lambda v, d: struct.pack("<Q", 2**64 - 1) + b"{}",
    "no header": lambda v, d: struct.pack("<Q", 0) + b"{}",
    "huge header": lambda v, d: struct.pack("<Q", 2**63) + b"{}",
    "3 GB header": lambda v, d: struct.pack("<Q", 3 << 30) + b"{}",
    "empty": lambda v, d: b"",
    "7 bytes": lambda v, d: b"1234567",
    "random": lambda v, d: RANDOM * 5,
    "not text": lambda v, d: struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    "cut": lambda v, d: (v, d[:-100]),
    "half": lambda v, d: (v, d[: len(d) // 2]),
    "nan": lambda v, d: (v, b"\xff" * len(d)),
    "infinite": lambda v, d: (v, d[:-4] + struct.pack("<f", float("inf"))),
    "zeros": lambda v, d: (v, bytes(len(d))),
    "pickle": lambda v, d: b"\x80\x04\x95" + d[:100],
    "zip": lambda v, d: b"PK\x03\x04" + d[:100],
}


def files(base: Path) -> Iterator[tuple[Any, ...]]:
    """One file: entries, headers, lengths, bytes."""
    for position in (0, -1):
        for key, values in WRONG.items():
            for name, value in values.items():

                def change(
                    found: Any, data: bytes, key=key, value=value, position=position
                ) -> None:
                    found[names(found)[position]][key] = value

                yield f"{key} of tensor {position} is {name}", score("ck"), header(FILE, change)
    for name, how in HEADERS.items():
        yield name, score("ck"), header(FILE, how)
    for kind in NO_FILES:
        yield kind, score("ck"), *in_place_of(FILE, kind)
    for seed in range(40):
        yield f"bytes of the header, {seed}", score("ck"), _flipped(seed)


def _flipped(seed: int) -> Any:
    def change(folder: Path) -> None:
        data, rng = bytearray((folder / FILE).read_bytes()), random.Random(seed)
        for _ in range(rng.choice([1, 1, 2, 5])):
            data[
                rng.randrange(
                    8 + struct.unpack("<Q", data[:8])[0] if rng.random() < 0.9 else len(data)
                )
            ] = rng.randrange(256)
        (folder / FILE).write_bytes(data)

    return change


SHARDS = {
    "absolute": "/etc/passwd",
    "up": "../ck/model-00001-of-00004.safetensors",
    "missing": "nope.safetensors",
    "here": ".",
    "above": "..",
    "null": None,
    "number": 3,
    "list": ["a"],
    "empty": "",
    "zero byte": "a\0b",
    "backslash": "..\\x",
    "config": "config.json",
    "itself": "model.safetensors.index.json",
    "long": "a" * 5000,
    "below": "x/y",
    "device": "/dev/zero",
    "half a character": "\ud800",
}


def indices(base: Path) -> Iterator[tuple[Any, ...]]:
    """A sharded checkpoint: what the index says, and the shards."""

    def sharded(folder: Path) -> None:
        shutil.rmtree(folder / "ck")
        shutil.copytree(base / "sharded", folder / "ck")

    def case(name: str, *changes: Any) -> tuple[Any, ...]:
        return (name, score("ck"), sharded, *changes)

    first = next(
        iter(json.loads((base / "sharded/model.safetensors.index.json").read_text())["weight_map"])
    )
    for name, value in SHARDS.items():
        yield case(f"shard {name}", edit(INDEX, put(("weight_map", first), value)))
    for key in ("weight_map", "metadata"):
        for name, value in {
            "missing": MISSING,
            "null": None,
            "list": [],
            "text": "x",
            "empty": {},
            "number": 3,
        }.items():
            yield case(f"{key} is {name}", edit(INDEX, put(key, value)))
    for size in (1, -5, "x", None, 1e300):
        yield case(f"total_size {size}", edit(INDEX, put(("metadata", "total_size"), size)))
    yield case(
        "a tensor in another shard", edit(INDEX, put(("weight_map", first), SHARD.format(4)[3:]))
    )
    yield case(
        "a tensor that no shard has", edit(INDEX, put(("weight_map", "more"), SHARD.format(1)[3:]))
    )
    for name, text in {
        "empty": "",
        "cut": '{"weight_map": {',
        "list": "[]",
        "null": "null",
        "not text": b"\xff\xfe",
        "deep": DEEP,
        "digits": "9" * 5000,
    }.items():
        yield case(name, write(INDEX, text))
    for kind in NO_FILES:
        yield case(f"index: {kind}", *in_place_of(INDEX, kind))
    for shard in (SHARD.format(1), SHARD.format(4)):
        for name, change in {
            "gone": remove(shard),
            "empty": write(shard, b""),
            "cut": cut(shard, 9),
        }.items():
            yield case(f"{shard} {name}", change)
        yield case(
            f"{shard} a link out",
            lambda folder, shard=shard: (
                os.rename(folder / shard, folder / "other"),
                os.symlink("../other", folder / shard),
            ),
        )
        for kind in NO_FILES:
            yield case(f"{shard} {kind}", *in_place_of(shard, kind))
    yield case(
        "a shard twice",
        lambda folder: shutil.copy(folder / SHARD.format(1), folder / SHARD.format(2)),
    )
