"""SGLang: per-block FFN widths as a list in config.json, experts of any size by block_configs."""

from __future__ import annotations

from minipuzzle.export.engines.base import (
    HYBRIDS,
    WITH_EXPERTS,
    Answer,
    Asked,
    Engine,
    no,
    renormalised,
    reported,
    split,
    unproven,
    yes,
)


def _rule(asked: Asked) -> Answer:
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
            " block"
        )
    return yes("as it is")


ENGINE = Engine(
    label="SGLang",
    place=2,
    read="SGLang 0.5.23, srt/models, srt/configs/nemotron_h.py",
    families=(*HYBRIDS, *WITH_EXPERTS),
    rule=_rule,
    others=reported,
    splits=True,
)
