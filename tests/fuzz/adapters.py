"""Adapters: our own files, and folders in PEFT's form."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from .case import DEEP, RANDOM, VALUES, Change, header, put, write
from .tensors import HEADERS

FILE = "ad/adapter.safetensors"
MERGE = ("merge", "ck", FILE, "--out", "m")
PEFT = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 2,
    "target_modules": ["up_proj"],
    "base_model_name_or_path": "x",
    "bias": "none",
    "task_type": "CAUSAL_LM",
}
MORE = (
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "init_lora_weights",
    "lora_bias",
    "megatron_config",
    "loftq_config",
)
PAIR = "base_model.model.backbone.layers.{}.mixer.up_proj.lora_{}.weight"
OUTS = (
    "ck",
    "text.txt",
    "text.txt/m",
    "ad",
    ".",
    "/",
    "/proc/m",
    "",
    "a" * 300,
    "a\0b",
    "/dev/null",
)


def cases(base: Path) -> Iterator[tuple[Any, ...]]:
    """Merged into the checkpoint that they were trained on, or written in another form."""

    def ours(folder: Path) -> None:
        shutil.copytree(base / "run/adapter", folder / "ad")

    for name, how in {**HEADERS, **_metadata()}.items():
        for form in ("checkpoint", "peft", "compact"):
            yield f"{name}, {form}", (*MERGE, "--export", form), ours, header(FILE, how)
    yield from _fields(base, ours)
    yield "another base", ("merge", base / "big", FILE, "--out", "m"), ours
    for given in ("nope", "ck", "text.txt", "", "a\0b", "/dev/zero"):
        yield f"adapter {given!r}", ("merge", "ck", given, "--out", "m")
    for out in OUTS:
        for form in ("checkpoint", "peft", "compact"):
            yield (
                f"out {out[:12]!r}, {form}",
                ("merge", "ck", FILE, "--out", out, "--export", form),
                ours,
            )
    yield from _peft()


def _metadata() -> dict[str, Any]:
    def said(text: str) -> Any:
        return lambda found, data: (
            {**found, "__metadata__": dict.fromkeys(found["__metadata__"], text)},
            data,
        )

    texts = {
        "brace": "{",
        "table": "{}",
        "list": "[]",
        "null": "null",
        "deep": DEEP,
        "digits": "9" * 5000,
        "half": '"\\ud800"',
    }
    return {f"metadata {name}": said(text) for name, text in texts.items()} | {
        "no metadata": lambda found, data: (
            {n: v for n, v in found.items() if n != "__metadata__"},
            data,
        )
    }


def _fields(base: Path, ours: Change) -> Iterator[tuple[Any, ...]]:
    with safe_open(base / "run/adapter/adapter.safetensors", "np") as file:
        about = {
            key: json.loads(text) for key, text in file.metadata().items() if text.startswith("{")
        }
    for key, table in about.items():
        for field in table:
            for name in (
                "missing",
                "null",
                "text",
                "negative",
                "zero",
                "list",
                "table",
                "huge",
                "nan",
                "fraction",
            ):

                def change(found: Any, data: bytes, key=key, field=field, name=name) -> None:
                    table = json.loads(found["__metadata__"][key])
                    put(field, VALUES[name])(table)
                    found["__metadata__"][key] = json.dumps(table)

                yield f"{field} is {name}", MERGE, ours, header(FILE, change)


def _peft() -> Iterator[tuple[Any, ...]]:
    def pair(
        layer: Any = 1, rank: int = 2, width: int = 32, fill: float = 0.1, parts: str = "AB"
    ) -> dict[str, torch.Tensor]:
        shapes = {"A": (rank, width), "B": (64, rank)}
        return {PAIR.format(layer, part): torch.full(shapes[part], fill) for part in parts}

    def folder(config: Any, tensors: dict[str, torch.Tensor] | bytes) -> tuple[Any, ...]:
        data = tensors if isinstance(tensors, bytes) else save(tensors)
        return (
            ("merge", "ck", "pe", "--out", "m"),
            write("pe/adapter_config.json", config),
            write("pe/adapter_model.safetensors", data),
        )

    yield "PEFT, good", *folder(PEFT, pair())
    for key in (*PEFT, *MORE):
        for name in (
            "missing",
            "null",
            "text",
            "negative",
            "zero",
            "list",
            "table",
            "true",
            "nan",
            "huge",
            "fraction",
            "empty",
        ):
            config = {**PEFT, key: VALUES[name]}
            if name == "missing":
                del config[key]
            yield f"PEFT, {key} is {name}", *folder(config, pair())
    for name, text in {
        "empty": "",
        "list": "[]",
        "null": "null",
        "deep": DEEP,
        "not text": b"\xff",
        "digits": "9" * 5000,
    }.items():
        yield f"PEFT, config {name}", *folder(text, pair())
    for name, tensors in {
        "layer 99": pair(99),
        "layer x": pair("x"),
        "only A": pair(parts="A"),
        "width": pair(width=33),
        "rank": pair(rank=3),
        "other": {"x": torch.zeros(1)},
        "nan": pair(fill=float("nan")),
        "random": RANDOM,
        "empty": b"",
        "none": {},
        "flat": {PAIR.format(1, "A"): torch.randn(32), PAIR.format(1, "B"): torch.randn(64)},
        "whole numbers": {name: value.long() for name, value in pair().items()},
    }.items():
        yield f"PEFT, tensors {name}", *folder(PEFT, tensors)
    yield (
        "PEFT, no weights",
        ("merge", "ck", "pe", "--out", "m"),
        write("pe/adapter_config.json", PEFT),
    )
    yield (
        "PEFT, pickled",
        ("merge", "ck", "pe", "--out", "m"),
        write("pe/adapter_config.json", PEFT),
        write("pe/adapter_model.bin", b"\x80\x04"),
    )
