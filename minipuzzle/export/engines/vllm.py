"""vLLM: per-block FFN widths and attention heads with the checkpoint's own classes."""

from __future__ import annotations

from minipuzzle.export.engines.base import HYBRIDS, Answer, Asked, Engine, no, split, unproven, yes


def _rule(asked: Asked) -> Answer:
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
    read="vLLM 0.33.0, model_executor/models/nemotron_h.py",
    families=HYBRIDS,
    rule=_rule,
)
