"""OLMo 3: OLMo 2 with a sliding window in three layers of four; layers of either kind have a rotary
embedding of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import olmo2
from minipuzzle.families._fields import error, own, positive
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families._windows import slid, window_of, windows, write_windows
from minipuzzle.families.llama import biases, extra_files, write
from minipuzzle.families.olmo2 import names
from minipuzzle.kinds import Attention

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = olmo2.FIELDS | {"sliding_window": 4096, "layer_types": None, "rope_theta": 500_000.0}
THETA: float = FIELDS["rope_theta"]
FULL, SLIDING = "full_attention", "sliding_attention"


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``olmo2.architecture``. Raises: UserError also for rope_parameters that are not those of
    each kind of layer.
    """
    fields = own(config, FIELDS)
    window, layers = window_of(fields), positive(fields, "num_hidden_layers")
    slides = windows(fields, window, [window is not None and i % 4 != 3 for i in range(layers)])
    apart = dict.fromkeys(("rope_scaling", "rope_parameters", "original_max_position_embeddings"))
    plain = {**fields, **apart, "rope_theta": THETA}
    result = slid(olmo2.architecture(plain), slides)
    blocks = [
        replace(block, rope=read_rope(plain | _rope(fields, _kind(block)), block.attn_head_dim))
        if isinstance(block, Attention)
        else block
        for block in result.blocks
    ]
    return replace(result, blocks=tuple(blocks))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``; the rotary embedding of full layers is also said as before transformers
    5.
    """
    ropes = {_kind(b): write_rope(b.rope) for b in architecture.blocks if isinstance(b, Attention)}
    old = {"rope_theta": THETA, "rope_scaling": None} | ropes.get(FULL, {})
    each = {kind: rope["rope_parameters"] for kind, rope in ropes.items()}
    sliding = write_windows(architecture)
    del sliding["use_sliding_window"]  # no field of this family
    bias = biases(architecture)["attention_bias"]
    others = {"attention_bias": bias, **sliding, **old, "rope_parameters": each}
    return write(architecture, original, "olmo3", "Olmo3ForCausalLM", **others)


def _kind(block: Attention) -> str:
    return FULL if block.sliding_window is None else SLIDING


def _rope(fields: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The fields of one kind's rotary embedding, as transformers' class reads them: ``rope_theta``
    and ``rope_scaling`` beside rope_parameters are those of full layers, and what is in
    rope_parameters for no kind is nobody's.
    """
    said, old = fields["rope_parameters"] or {}, fields["rope_scaling"] or {}
    own = said.get(kind) or {} if isinstance(said, dict) else said
    if not isinstance(own, dict) or not isinstance(old, dict):
        raise error(
            "rope_parameters are not those of each kind of layer.",
            got=old if isinstance(own, dict) else said,
            allowed=f"an object with {FULL} and {SLIDING}",
        )
    if kind == SLIDING:
        return {"rope_parameters": own}
    return {"rope_parameters": {**own, **old}, "rope_theta": fields["rope_theta"]}
