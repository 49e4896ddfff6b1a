"""SGLang: per-block FFN widths as a list in config.json, experts of any size by block_configs."""

from __future__ import annotations

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

CLASSES = ("granite", "lfm2", "mamba2", "mixtral", "olmo2", "phi3")
"""Families whose classes are in its registry, which was read no further."""
WITHOUT = ("bamba", "olmo3", "olmo_hybrid", "smollm3")
"""Families without one, which it would run by transformers' class."""


def _registered(asked: Asked) -> Answer:
    if asked.family in EVERYWHERE:
        return yes(AS_IT_IS)
    if asked.family in DELTA_NETS:
        return unproven(
            "its registry has this family, not run; GPUs must share DeltaNet heads equally"
        )
    if asked.family in WITHOUT:
        return unproven("its registry lacks this family: transformers' class, if that is possible")
    return unproven("its registry has this family; not run")


def _rule(asked: Asked) -> Answer:
    if asked.family not in (*HYBRIDS, *WITH_EXPERTS):
        return _registered(asked)
    if asked.family == "olmoe" and renormalised(asked.architecture):
        return no("it never normalises the gates of this family (norm_topk_prob)")
    ssm, attention, widths = split(asked.architecture)
    if ssm:
        return no(f"one cache shape for all Mamba-2 blocks, these differ in {ssm}")
    if attention:
        return unproven(f"one cache pool for all attention blocks, these differ in {attention}")
    if widths:
        return yes(
            "after merging overrides.sglang.json into a copy of config.json: a width for each FFN"
            " block",
            merge="overrides.sglang.json",
        )
    return yes("as it is")


ENGINE = Engine(
    label="SGLang",
    place=2,
    serve="python -m sglang.launch_server --model-path {path}",
    read="SGLang 0.5.23, srt/models (registry), srt/configs/nemotron_h.py",
    families=(*HYBRIDS, *WITH_EXPERTS, *EVERYWHERE, *DELTA_NETS, *CLASSES, *WITHOUT),
    rule=_rule,
    formats={
        "fp8": yes("in FP8"),
        "fp8-static": yes("in FP8"),
        "int4": yes("in 4 bits"),
        "nvfp4": yes("in 4 bits"),
        "mxfp4": no("of compressed-tensors' FP4 it has NVFP4 alone"),
    },
    splits=True,
)
