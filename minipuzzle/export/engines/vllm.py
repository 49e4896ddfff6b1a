"""vLLM: per-block FFN widths, attention heads and experts with the checkpoint's own classes."""

from __future__ import annotations

from minipuzzle.checkpoint.quantised import MIXED
from minipuzzle.export.engines.base import (
    AS_IT_IS,
    DELTA_NETS,
    EVERYWHERE,
    HYBRIDS,
    WITH_EXPERTS,
    Answer,
    Asked,
    Engine,
    no,
    renormalised,
    split,
    unproven,
    yes,
)

CLASSES = ("granite", "lfm2", "mamba2", "mixtral", "olmo_hybrid", "phi3")
"""Families whose classes are in its registry."""
BORROWED = ("olmo2", "olmo3", "smollm3")
"""Families that its registry gives to transformers' classes."""


def _registered(asked: Asked) -> Answer:
    if asked.family == "bamba":
        return no("0.23 was the last version that had this family")
    if asked.family == "lfm2":
        return unproven("its class wants conv_dim, which not every config.json has")
    if asked.family == "olmo_hybrid":
        return unproven("its class has other names for norms than published files")
    if asked.family in DELTA_NETS:
        return unproven(
            "its registry has this family, not run; GPUs must share DeltaNet heads equally"
        )
    if asked.family in BORROWED:
        return yes("as it is, by transformers' class")
    return yes(AS_IT_IS)


def _rule(asked: Asked) -> Answer:
    if asked.family not in (*HYBRIDS, *WITH_EXPERTS):
        return _registered(asked)
    if asked.family == "olmoe" and renormalised(asked.architecture):
        return no("it never normalises the gates of this family (norm_topk_prob)")
    ssm, attention, _ = split(asked.architecture)
    if ssm:
        return no(f"Mamba-2 sizes are global fields there, these blocks differ in {ssm}")
    if attention:
        return unproven(
            f"its cache has one shape for all attention blocks, these differ in {attention}"
        )
    if asked.architecture.homogeneous:
        return yes("as it is")
    return yes("with the classes in the checkpoint", flags="--trust-remote-code")


ENGINE = Engine(
    label="vLLM",
    place=1,
    serve="vllm serve {path}",
    read="vLLM 0.33.0, model_executor/models/nemotron_h.py; models/registry.py of 0.32.0",
    families=(*HYBRIDS, *WITH_EXPERTS, *EVERYWHERE, *DELTA_NETS, *CLASSES, *BORROWED, "bamba"),
    rule=_rule,
    formats={
        "fp8": yes("in FP8"),
        "fp8-static": yes("in FP8"),
        "int4": yes("on a GPU; on a CPU where rows are multiples of 32"),
        "nvfp4": yes("on a GPU: no kernel for a CPU"),
        "mxfp4": yes("on a GPU: no kernel for a CPU"),
        MIXED: yes("each matrix in its format; on a CPU as far as it has kernels of all"),
    },
    cache="keys and values in FP8 by their scales (on a CPU in heads of multiples of 32 channels)",
    splits=True,
)
