"""vLLM: per-block FFN widths, attention heads and experts with the checkpoint's own classes."""

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
    ssm, attention, _ = split(asked.architecture)
    if ssm:
        return no(f"Mamba-2 sizes are global fields there, these blocks differ in {ssm}")
    if attention:
        return unproven(
            f"its cache has one shape for all attention blocks, these differ in {attention}"
        )
    if asked.architecture.homogeneous:
        return yes("as it is")
    return yes("--trust-remote-code: the classes are in the checkpoint")


ENGINE = Engine(
    label="vLLM",
    place=1,
    read="vLLM 0.33.0, model_executor/models/nemotron_h.py; 0.32.0 for other families",
    families=(*HYBRIDS, *WITH_EXPERTS),
    rule=_rule,
    others=reported,
    splits=True,
)
