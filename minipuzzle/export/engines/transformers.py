"""Hugging Face transformers: every family, the classes of per-block sizes in the checkpoint."""

from __future__ import annotations

from minipuzzle.checkpoint.quantised import MIXED
from minipuzzle.export.engines.base import AS_IT_IS, HYBRIDS, Answer, Asked, Engine, yes
from minipuzzle.memory.formats import FORMATS


def _others(asked: Asked) -> Answer:
    """Their checkpoints are homogeneous (their configs can say nothing else), so their own classes
    load them.
    """
    if any(block.sizes.get("groups", 1) > 1 for block in asked.architecture.blocks):
        return yes(
            "5.23 or later: earlier ones load it but take one gated norm over all groups of heads"
        )
    return yes(AS_IT_IS)


def _rule(asked: Asked) -> Answer:
    if asked.architecture.homogeneous:
        return yes(
            "5.16 or later as it is; it clamps dt at 0.001 in prefill (docs/decisions/dt-clamp.md)"
        )
    return yes(
        "5.16 or later with trust_remote_code=True: the two classes are in the checkpoint",
        flags="--trust-remote-code",
    )


ENGINE = Engine(
    label="transformers",
    place=0,
    serve="transformers serve {path}",
    read="transformers 5.23.0, models/nemotron_h",
    families=HYBRIDS,
    rule=_rule,
    others=_others,
    formats=dict.fromkeys((*FORMATS, MIXED), yes("with compressed-tensors installed")),
    cache="keys and values rounded to FP8 by their scales",
)
