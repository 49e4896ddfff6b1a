"""The embedded teacher quantised by llm-compressor: what tests/test_quantize.py compares with.

    python -m venv --system-site-packages ENV && ENV/bin/pip install llmcompressor==0.14.0.1
    ENV/bin/python studies/peers/llm_compressor.py tests/golden/llm_compressor.json

Ran on 2026-11-29: llm-compressor 0.14.0.1, compressed-tensors 0.19.0, transformers 5.23.0, torch
2.13.0 on a CPU.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from compressed_tensors.quantization import preset_name_to_scheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM

from minipuzzle.embedded import teacher_path

SCHEMES = {
    "fp8": ("FP8_DYNAMIC", None),
    "nvfp4": ("NVFP4A16", None),
    "mxfp4": ("MXFP4A16", None),
    "int4, 64": ("W4A16", 64),
    "int4, 32": ("W4A16", 32),
}


def digest(file: Path) -> str:
    """Of names, dtypes, shapes and bytes of all tensors of a safetensors file, sorted by name."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = hashlib.sha256()
    for name, said in sorted(header.items()):
        start, end = (8 + length + at for at in said["data_offsets"])
        found.update(f"{name} {said['dtype']} {said['shape']}".encode() + data[start:end])
    return found.hexdigest()


def made(scheme: str, group: int | None, folder: Path) -> str:
    """The digest of what llm-compressor writes."""
    model = AutoModelForCausalLM.from_pretrained(teacher_path(), dtype="auto")
    asked = preset_name_to_scheme(scheme, ["Linear"])
    if group is not None:
        asked.weights.group_size = group
    groups = {"group_0": asked}
    oneshot(model=model, recipe=QuantizationModifier(config_groups=groups, ignore=["lm_head"]))
    model.save_pretrained(folder, save_compressed=True)
    return digest(folder / "model.safetensors")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {name: made(*s, Path(folder, name)) for name, s in SCHEMES.items()}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
