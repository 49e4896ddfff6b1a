"""TensorRT-LLM: FFN widths as a list in config.json, experts by block_configs, no FFN biases."""

from __future__ import annotations

from minipuzzle.export.engines.base import HYBRIDS, Answer, Asked, Engine, no, split, unproven, yes


def _rule(asked: Asked) -> Answer:
    names = {weight.name for block in asked.architecture.blocks for weight in block.weights}
    if "down_proj.bias" in names:
        return no("its feed-forward blocks have no bias")
    if any(name.endswith("_proj.bias") and name.startswith("shared_") for name in names):
        return unproven("whether its shared experts have a bias was not looked up")
    ssm, attention, widths = split(asked.architecture)
    if ssm or attention:
        axes = ", ".join(part for part in (attention, ssm) if part)
        return no(f"global fields there, these blocks differ in {axes}")
    if widths:
        return yes(
            "after merging overrides.tensorrt_llm.json into a copy of config.json: a width a block",
            merge="overrides.tensorrt_llm.json",
        )
    return yes("as it is")


ENGINE = Engine(
    label="TensorRT-LLM",
    place=3,
    serve="trtllm-serve {path}",
    read="TensorRT-LLM 00620eb, _torch/models/modeling_nemotron_h.py",
    families=HYBRIDS,
    rule=_rule,
    splits=True,
)
