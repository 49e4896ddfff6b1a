"""What config.json says of quantised weights: FP8 with scales is read, other formats are refused by
name. No torch.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint.doors import RESTORE, opened
from minipuzzle.checkpoint.header import Entry
from minipuzzle.errors import UserError

QUANTISATION = ("quantization_config", "compression_config", "quantization")
"""Fields of config.json (transformers', older llm-compressor's, MLX's) that say how weights are
quantised.
"""
MODELOPT = "hf_quant_config.json"
"""The file beside config.json in which NVIDIA's ModelOpt says it."""
QUANTISED = re.compile(
    r"(^|[._])(weight_scale(_inv|_2)?|(input|output|activation|[qkv]|kv)_scale|scales|qweight"
    r"|qzeros|g_idx|weight_packed|weight_shape|weight_zero_point|weight_g_idx|SCB|weight_format"
    r"|(nested_)?absmax|(nested_)?quant_map|quant_state|(weight|input)_global_scale"
    r"|(input|output|weight)_quantizer|amax)([.]|$)"
)
ACTIVATIONS = re.compile(r"[._]((input|output|activation|[qkv]|kv)_scale|input_scale_ub)$")
"""Scales that engines use while they run, of activations and caches: no weight needs them."""
FP8_FORMATS = ("float-quantized", "naive-quantized")
"""compressed-tensors' formats of a whole model in which FP8 codes lie under the weight's name."""
FOUR_BITS = {
    "nvfp4-pack-quantized": "nvfp4",
    "mxfp4-pack-quantized": "mxfp4",
    "pack-quantized": "int4",
}
"""compressed-tensors' formats of weights in 4 bits, and what ``minipuzzle quantize`` calls them."""
MIXED = "mixed"
CODES = "F8_E4M3"
ALLOWED = (
    "BF16, F16, F32 or F64 weights, or FP8 (E4M3) with scales: compressed-tensors, fp8, ModelOpt"
)
HEADER = 1 << 24
"""Bytes that a file of settings may have."""


@dataclass(frozen=True, kw_only=True)
class Fp8:
    """Matrices of E4M3 codes with scales beside them, as a tool called ``method`` writes them.
    ``block``: rows and columns that share a scale, where the config says so.
    """

    method: str
    block: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"FP8 with scales, {self.method}"


def declared(path: Path, config: dict[str, Any]) -> Any:
    """What config.json, or ModelOpt's file beside it, says of quantised weights; None where nothing
    is said. Raises: UserError for a file that cannot be read.
    """
    for field in QUANTISATION:
        if config.get(field):
            return config[field]
    if not (path / MODELOPT).is_file():
        return None
    said = read_json(opened(path, MODELOPT, HEADER), dict[str, Any], next=RESTORE)
    inner = said.get("quantization")
    return {"quant_method": "modelopt", **(inner if isinstance(inner, dict) else {})}


def named(said: Any) -> str | None:
    """What the quantisation is called, such as "awq" or "compressed-tensors, nvfp4-pack-quantized";
    None where nothing is said.
    """
    if not said:
        return None
    if not isinstance(said, dict):
        return str(said)[:40]
    words = [said.get("quant_method"), said.get("format") or said.get("quant_algo")]
    if not any(words):
        words = [said.get("bits") and f"{said['bits']} bits"]
    return ", ".join(str(word)[:40] for word in words if word) or "quantised"


def fp8_of(said: Any) -> Fp8 | None:
    """The FP8 with scales that was declared; None for everything else."""
    if not isinstance(said, dict):
        return None
    method, algo = said.get("quant_method"), said.get("quant_algo")
    if method == "fp8":
        return Fp8(method=method, block=_block(said.get("weight_block_size")))
    if method == "fbgemm_fp8" or (method == "modelopt" and algo == "FP8"):
        return Fp8(method=method)
    if method == "compressed-tensors" and said.get("format") in FP8_FORMATS:
        return _compressed(said)
    return None


def form_of(said: Any) -> str | None:
    """The format by the name that ``minipuzzle quantize`` has for it, ``MIXED`` where matrices are
    in several of those; None for every other one.
    """
    if not isinstance(said, dict) or said.get("quant_method") != "compressed-tensors":
        return None
    groups = list((said.get("config_groups") or {}).values())
    if len(groups) != 1:
        known = [
            form_of({**said, "config_groups": {"": group}, "format": group.get("format")})
            for group in groups
        ]
        return MIXED if known and all(known) else None
    weights, inputs = ((groups[0].get(of) or {}) for of in ("weights", "input_activations"))
    if (fp8 := fp8_of(said)) is not None:
        if fp8.block is not None or not isinstance(inputs.get("dynamic"), bool):
            return None
        return "fp8" if inputs["dynamic"] else "fp8-static"
    if inputs or weights.get("num_bits") != 4:
        return None
    return FOUR_BITS.get(said.get("format", ""))


def cache_of(said: Any) -> str | None:
    """ "fp8" where keys and values have scales for that, or are said to; None for all else."""
    if not isinstance(said, dict):
        return None
    scheme = said.get("kv_cache_scheme")
    kind = (scheme.get("type"), scheme.get("num_bits")) if isinstance(scheme, dict) else None
    return "fp8" if kind == ("float", 8) or said.get("kv_cache_quant_algo") == "FP8" else None


def _compressed(said: dict[str, Any]) -> Fp8 | None:
    sparse = said.get("sparsity_config") or {}
    if said.get("transform_config") or sparse.get("format", "dense") != "dense":
        return None  # rotated or sparse: the codes are not the weights
    weights = [group.get("weights") or {} for group in (said.get("config_groups") or {}).values()]
    if not weights or any((w.get("type"), w.get("num_bits")) != ("float", 8) for w in weights):
        return None
    blocks = {_block(w.get("block_structure")) for w in weights}
    return Fp8(method="compressed-tensors", block=blocks.pop()) if len(blocks) == 1 else None


def _block(said: Any) -> tuple[int, int] | None:
    whole = isinstance(said, (list, tuple)) and len(said) == 2
    return (said[0], said[1]) if whole and all(type(n) is int and n > 0 for n in said) else None


def scaled(entries: dict[str, Entry]) -> list[str]:
    """The tensors by whose names or dtypes (but FP8) weights are seen to be quantised."""
    return [
        name
        for name, e in entries.items()
        if QUANTISED.search(name) or e.dtype in ("F8_E8M0", "I8", "U8")
    ]


def refused(said: Any, example: str, entries: dict[str, Entry]) -> UserError:
    """The error for weights in a format that is not read; ``example``: a tensor that shows it."""
    how = f" ({named(said)})" if said else ""
    dtypes = ", ".join(d for d, _ in Counter(e.dtype for e in entries.values()).most_common(3))
    return UserError(
        f"These weights are quantised{how}, in a format that is not read.",
        got=f"{example}; dtypes {dtypes}",
        allowed=ALLOWED,
        next="Take the checkpoint in BF16 that this one was made from, or save a dequantised "
        "one with the tool that made it (transformers: from_pretrained with dequantize=True in "
        "the quantisation's config, then save_pretrained).",
    )
