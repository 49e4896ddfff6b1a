"""SGLang: per-block FFN widths as a list in config.json."""

from __future__ import annotations

from minipuzzle.export.engines.base import HYBRIDS, Answer, Asked, Engine, no, split, unproven, yes


def _rule(asked: Asked) -> Answer:
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
    read="SGLang 0.5.23, srt/models/nemotron_h.py, srt/configs/nemotron_h.py",
    families=HYBRIDS,
    rule=_rule,
)
