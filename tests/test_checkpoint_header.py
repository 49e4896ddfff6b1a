"""Headers of safetensors files, broken and hostile ones too. Oracle: safetensors' own reader."""

import json
import struct
import tracemalloc

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minipuzzle.checkpoint.header import DTYPE_BYTES, read_header
from minipuzzle.errors import UserError


def written(path, header, data=b"\0" * 16, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def u8(start, end):
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


def i64(start, end, *shape):
    return {"dtype": "I64", "shape": list(shape), "data_offsets": [start, end]}


ENTRY = b'"a": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}'
HEADERS = {
    "whole": ({"a": u8(0, 9), "b": u8(9, 16)}, None),
    "in another order": ({"b": u8(9, 16), "none": u8(9, 9), "a": u8(0, 9)}, None),
    "with metadata": ({"__metadata__": {"format": "pt"}, "a": u8(0, 16)}, None),
    "padded": (b"{" + ENTRY + b"}     ", None),
    "overlap": ({"a": u8(0, 10), "b": u8(9, 16)}, "belong to another tensor"),
    "one within another": ({"a": u8(0, 16), "b": u8(2, 4)}, "belong to another tensor"),
    "twice the same": ({"a": u8(0, 16), "b": u8(0, 16)}, "belong to another tensor"),
    "a hole": ({"a": u8(0, 7), "b": u8(9, 16)}, "after a hole"),
    "a hole at the start": ({"a": u8(2, 16)}, "after a hole"),
    "more data at the end": ({"a": u8(0, 9)}, "announces"),
    "no tensors, and data": ({}, "announces"),
    "a name twice": (b"{" + ENTRY + b", " + ENTRY + b"}", "'a' is there twice"),
    "a field twice": (
        b'{"a": {"dtype": "U8", "dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}',
        "'dtype' is there twice",
    ),
    "ends before it starts": (
        {"a": {"dtype": "U8", "shape": [0], "data_offsets": [16, 0]}},
        "a of shape",
    ),
    "sizes that overflow": ({"a": i64(0, 16, 2**63, 2)}, "a of shape"),
    "sizes that are true": (
        {"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}},
        "a of shape",
    ),
    "sizes in halves": (
        {"a": {"dtype": "U8", "shape": [16.0], "data_offsets": [0, 16]}},
        "a of shape",
    ),
    "a number of 5,000 digits": (
        b'{"a": {"dtype": "U8", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 16]}}',
        "digits",
    ),
    "deep": (b"[" * 100_000, "recursion"),
    "deep inside": (b'{"a": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001, "recursion"),
    "UTF-16": (json.dumps({"a": u8(0, 16)}).encode("utf-16"), "decode"),
    "a lone surrogate": (
        b'{"\\ud800": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}',
        "called",
    ),
    "a name for the terminal": (
        b'{"\\u001b[2J": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}',
        "called",
    ),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": u8(0, 16)}, "__metadata__"),
    "metadata of a list": ({"__metadata__": [], "a": u8(0, 16)}, "__metadata__"),
    "an entry of null": ({"a": None}, "incomplete entry"),
    "not JSON": (b"\xff\xfe{}", "decode"),
    "a text": ('"a"', "str"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_are_read_as_strictly_as_safetensors_reads_them(case, tmp_path):
    header, says = HEADERS[case]
    path = written(
        tmp_path / "x.safetensors", header.encode() if isinstance(header, str) else header
    )
    if says is None:
        with safe_open(path, framework="np") as file:
            assert set(read_header(path)) == set(file.keys())
        return
    with pytest.raises(UserError, match=r"x\.safetensors is truncated or damaged") as caught:
        read_header(path)
    assert says in caught.value.got
    assert len(str(caught.value)) < 1000
    if case not in (
        "a name twice",
        "a lone surrogate",
        "a name for the terminal",
    ):  # safetensors takes the last, or the name
        with pytest.raises(SafetensorError), safe_open(path, framework="np"):
            pass


@pytest.mark.parametrize("announced", [100_000_001, 3_000_000_000, 2**63, 2**64 - 1])
def test_a_huge_header_is_refused_before_it_is_read(announced, tmp_path):
    path = written(tmp_path / "x.safetensors", b"", b"", announced)
    with path.open("r+b") as file:
        file.truncate(min(announced + 100, 4 << 30))
    tracemalloc.start()
    with pytest.raises(UserError, match="truncated or damaged"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_dtypes_have_their_widths_and_others_are_named(tmp_path):
    torchs = {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "BOOL": "bool",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        **{
            f"{kind}{bits}": f"{name}{bits}"
            for kind, name in (("I", "int"), ("U", "uint"))
            for bits in (8, 16, 32, 64)
        },
    }
    assert torchs.keys() == DTYPE_BYTES.keys()
    values = {n: torch.zeros(3, dtype=getattr(torch, name)) for n, name in torchs.items()}
    save_file(values, tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    assert {n: (e.dtype, e.nbytes) for n, e in found.items()} == {
        n: (n, v.numel() * v.element_size()) for n, v in values.items()
    }
    written(
        tmp_path / "y.safetensors", {"a": {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]}}
    )
    with pytest.raises(UserError, match="dtype we do not read"):
        read_header(tmp_path / "y.safetensors")
