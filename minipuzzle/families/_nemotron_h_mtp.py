"""Multi-token prediction of Nemotron 3 in its files: ``mtp.layers.N``, the blocks of all steps one
after another. transformers does not load it; vLLM, SGLang and TensorRT-LLM draft tokens with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import error, whole
from minipuzzle.families._nemotron_h_blocks import block, block_config, sizes
from minipuzzle.families._nemotron_h_fields import mtp_layers, of_block
from minipuzzle.kinds import Block

MTP = {
    "embedding_norm.weight": "enorm.weight",
    "hidden_norm.weight": "hnorm.weight",
    "in_proj.weight": "eh_proj.weight",
    "final_norm.weight": "final_layernorm.weight",
}
"""A step's tensors beside its blocks': the last lies in its last block, the others in its first."""


def mtp(fields: dict[str, Any], hidden: int) -> tuple[tuple[Block, ...], ...]:
    """The blocks of each step. ``mtp_block_configs`` are of all steps, or of one that others are
    like.

    Raises: UserError where fields contradict each other.
    """
    steps = whole(fields, "num_nextn_predict_layers")
    kinds = mtp_layers(fields) if steps else []
    if not kinds:
        return ()
    said = fields["mtp_block_configs"] or [{}] * len(kinds)
    if not isinstance(said, list) or len(said) not in (len(kinds), steps * len(kinds)):
        raise error(
            "mtp_block_configs has not an entry for each block.",
            got=f"{len(said)} entries",
            allowed=f"{len(kinds)}, or {steps * len(kinds)} for all steps",
        )
    own = list(said) * (1 if len(said) == steps * len(kinds) else steps)
    pairs = zip(kinds * steps, own, strict=True)
    blocks = [_block(kind, fields, given, hidden) for kind, given in pairs]
    return tuple(tuple(blocks[i : i + len(kinds)]) for i in range(0, len(blocks), len(kinds)))


def _block(kind: str, fields: dict[str, Any], given: Mapping[str, Any], hidden: int) -> Block:
    if not isinstance(given, Mapping):
        raise error(
            "mtp_block_configs is not a list of objects.",
            got=str(given)[:80],
            allowed="one object for each block",
        )
    return block(kind, of_block(fields, given), hidden)


def mtp_config(architecture: Architecture, top: dict[str, Any]) -> dict[str, Any]:
    """The fields that say the steps, where ``top`` says the model. Blocks of other sizes than
    ``top`` has are listed, as in the puzzle schema; an engine that reads no list takes the
    sizes of the model, and can then not draft with them.

    Raises: UserError where steps have other kinds of blocks.
    """
    if not architecture.mtp:
        return {}
    patterns = ["".join(block.letter for block in step) for step in architecture.mtp]
    if len(set(patterns)) > 1:
        raise error(
            "Steps of multi-token prediction differ.",
            got=", ".join(patterns),
            allowed="one pattern",
        )
    blocks = [block for step in architecture.mtp for block in step]
    fields = {
        "num_nextn_predict_layers": len(architecture.mtp),
        "mtp_hybrid_override_pattern": patterns[0],
    }
    alike = all(top[field] == value for b in blocks for field, value in sizes(b).items())
    if alike and "block_configs" not in top:
        return fields
    return fields | {"mtp_block_configs": [block_config(b, top) for b in blocks]}


def mtp_place(name: str, architecture: Architecture) -> tuple[str, str]:
    """(the start of a tensor's name in files, its name within a block) for ``mtp.0.norm.weight`` or
    ``mtp.0.blocks.1.norm.weight``.
    """
    _, step, rest = name.split(".", 2)
    count = len(architecture.mtp[int(step)])
    index = count - 1 if rest == "final_norm.weight" else 0
    if rest.startswith("blocks."):
        _, place, rest = rest.split(".", 2)
        index = int(place)
    return f"mtp.layers.{int(step) * count + index}.", rest
