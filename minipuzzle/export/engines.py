"""Which engines load a checkpoint, and why not: rules over its architecture, each with where it was
seen. No torch.

"ran" means a test or a benchmark of ours does it; "read" that we read it in that project's source
and never ran it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.claims import quantisation, scaled
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.shards import read_entries, weight_files
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.export import gguf_llama
from minipuzzle.export.gguf import layout_of
from minipuzzle.export.gguf_nemotron_h import MODEL_TYPES
from minipuzzle.export.gguf_tokenizer import described
from minipuzzle.kinds import FeedForward, Mamba2

READ = {
    "vLLM": "read: vLLM 0.33.0, model_executor/models/nemotron_h.py",
    "SGLang": "read: SGLang 0.5.23, srt/models/nemotron_h.py, srt/configs/nemotron_h.py",
    "TensorRT-LLM": "read: TensorRT-LLM 00620eb, _torch/models/modeling_nemotron_h.py",
}
RAN = "ran: transformers 5.16.0-5.24.0, docs/results/serving.md"
LLAMA = "ran: xllamacpp 2026.10.11549, tests/test_gguf.py"
NOT_LOOKED_AT = "not run, not read"
MAMBA = {"heads", "head_dim", "groups", "state", "kernel"}
ATTENTION = {"q_heads", "kv_heads", "attn_head_dim"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an engine loads a checkpoint: "yes", "no" or "unproven"; how it is started, or why it
    does not load.
    """

    engine: str
    loads: str
    how: str
    source: str


def engines(path: Path) -> list[Verdict]:
    """The verdict on each engine for the checkpoint in ``path``, from its config.json; weights are
    not needed, but where they are there, their headers say whether they are quantised.

    Raises: UserError for a config.json or weights that cannot be read.
    """
    config, architecture = read_config(path)
    model_type = str(config["model_type"])
    quantised = _quantised(path, config)
    if quantised is not None:
        verdict, why, read = quantised
        verdicts = [verdict(engine, why, NOT_LOOKED_AT) for engine in ("transformers", *READ)]
        ours = _llama_cpp(path, model_type, architecture) if read else _no("llama.cpp", why, LLAMA)
        return [*verdicts, ours]
    if model_type in MODEL_TYPES:
        rules: list[Callable[[Architecture], Verdict]] = [_transformers, _vllm, _sglang, _tensorrt]
        verdicts = [rule(architecture) for rule in rules]
    else:
        verdicts = _stock(model_type, architecture)
    return [*verdicts, _llama_cpp(path, model_type, architecture)]


def _quantised(
    path: Path, config: dict[str, Any]
) -> tuple[Callable[[str, str, str], Verdict], str, bool] | None:
    """(the verdict on all engines but llama.cpp, why, whether minipuzzle reads the weights) where
    config.json or the weights say that they are quantised; None where nothing does.
    """
    beside = "hf_quant_config.json"
    said = quantisation(config) or ("modelopt" if (path / beside).is_file() else None)
    claim = f"config.json (or {beside}) says that weights are quantised ({said})"
    files = weight_files(path, config)
    if not files or not all((path / name).is_file() for name in files):
        return (_unproven, f"{claim}: not tried", False) if said else None
    entries = read_entries(path, config)[0]
    scales = scaled(entries)
    narrow = [name for name, entry in entries.items() if entry.dtype.startswith("F8")]
    if scales or narrow:
        seen = said or f"{(scales or narrow)[0]}"
        why = f"quantised weights ({seen}): not tried"
        return _unproven, why, not scales and not said
    return (_no, f"{claim}, and they are not: take that out", True) if said else None


def _stock(model_type: str, architecture: Architecture) -> list[Verdict]:
    """Checkpoints of every other family are homogeneous (its config can say nothing else), so its
    own class loads them.
    """
    said = "as it is: an ordinary checkpoint of its family"
    known = model_type in gguf_llama.MODEL_TYPES
    grouped = any(isinstance(b, Mamba2) and b.groups > 1 for b in architecture.blocks)
    theirs = (
        "5.23 or later: earlier ones load it but take one gated norm over all groups of heads"
        if grouped
        else said
    )
    return [
        _yes("transformers", theirs, RAN),
        *(
            Verdict(
                engine=engine,
                loads="yes" if known else "unproven",
                source=NOT_LOOKED_AT,
                how=said if known else "whether it has this family was not looked up",
            )
            for engine in READ
        ),
    ]


def varying(architecture: Architecture) -> set[str]:
    """The axes that have more than one size among the blocks of a kind, such as {"intermediate",
    "heads"}.
    """
    seen: dict[tuple[str, str], set[int]] = {}
    for block in architecture.blocks:
        for axis, size in block.sizes.items():
            seen.setdefault((block.kind, axis), set()).add(size)
    return {axis for (_, axis), sizes in seen.items() if len(sizes) > 1}


def _transformers(architecture: Architecture) -> Verdict:
    if architecture.homogeneous:
        return _yes(
            "transformers",
            "5.16 or later as it is; it clamps dt at 0.001 in prefill (docs/decisions.md)",
            RAN,
        )
    return _yes(
        "transformers",
        "5.16 or later with trust_remote_code=True: the two classes are in the checkpoint",
        RAN,
    )


def _vllm(architecture: Architecture) -> Verdict:
    axes = varying(architecture)
    if axes & MAMBA:
        return _no(
            "vLLM",
            f"Mamba-2 sizes are global fields there, these blocks differ in {_said(axes & MAMBA)}",
        )
    if axes & ATTENTION:
        return _unproven(
            "vLLM",
            "its cache has one shape for all attention blocks, these differ in"
            f" {_said(axes & ATTENTION)}",
        )
    return _yes(
        "vLLM",
        (
            "as it is"
            if architecture.homogeneous
            else "--trust-remote-code: the classes are in the checkpoint"
        ),
    )


def _sglang(architecture: Architecture) -> Verdict:
    axes = varying(architecture)
    if axes & MAMBA:
        return _no(
            "SGLang",
            f"one cache shape for all Mamba-2 blocks, these differ in {_said(axes & MAMBA)}",
        )
    if axes & ATTENTION:
        return _unproven(
            "SGLang",
            f"one cache pool for all attention blocks, these differ in {_said(axes & ATTENTION)}",
        )
    if "intermediate" in axes:
        return _yes(
            "SGLang",
            "after merging overrides.sglang.json into a copy of config.json: a width for each FFN"
            " block",
        )
    return _yes("SGLang", "as it is")


def _tensorrt(architecture: Architecture) -> Verdict:
    axes = varying(architecture)
    if any(isinstance(b, FeedForward) and b.bias for b in architecture.blocks):
        return _no("TensorRT-LLM", "its feed-forward blocks have no bias")
    if axes & (MAMBA | ATTENTION):
        return _no(
            "TensorRT-LLM",
            f"global fields there, these blocks differ in {_said(axes & (MAMBA | ATTENTION))}",
        )
    if "intermediate" in axes:
        return _yes(
            "TensorRT-LLM",
            "after merging overrides.tensorrt_llm.json into a copy of config.json: a width a block",
        )
    return _yes("TensorRT-LLM", "as it is")


def _llama_cpp(path: Path, model_type: str, architecture: Architecture) -> Verdict:
    try:
        layout_of(model_type, architecture)
        described(Tokenizer.load(path))
    except UserError as error:
        why = f"{error.what} {error.got}; allowed: {error.allowed}"
        return Verdict(engine="llama.cpp", loads="no", how=why, source=LLAMA)
    return _yes("llama.cpp", "minipuzzle export --gguf FILE", LLAMA)


def _said(axes: set[str]) -> str:
    return ", ".join(sorted(axes))


def _yes(engine: str, how: str, source: str | None = None) -> Verdict:
    return Verdict(engine=engine, loads="yes", how=how, source=source or READ[engine])


def _no(engine: str, why: str, source: str | None = None) -> Verdict:
    return Verdict(engine=engine, loads="no", how=why, source=source or READ[engine])


def _unproven(engine: str, why: str, source: str | None = None) -> Verdict:
    return Verdict(engine=engine, loads="unproven", how=why, source=source or READ[engine])
