"""Small checkpoints whose matrices are FP8 codes with scales, made by compressed-tensors."""

import torch
from checkpoint_folders import say, weights
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams

BLOCK = [8, 6]
"""Rows and columns that share a scale, which divide the sizes of the tiny models in part only."""


def scheme_of(strategy):
    block = {"block_structure": BLOCK} if strategy == "block" else {}
    args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, **block)
    return QuantizationScheme(targets=["Linear"], weights=args)


def largest(weight, strategy):
    """The largest magnitude of what shares a scale: [1], [rows, 1] or [blocks, blocks]."""
    if strategy == "tensor":
        return weight.abs().max().reshape(1)
    if strategy == "channel":
        return weight.abs().amax(1, keepdim=True)
    rows = weight.abs().split(BLOCK[0])
    return torch.stack([torch.stack([p.max() for p in r.split(BLOCK[1], 1)]) for r in rows])


def narrow(folder, strategy, named="weight_scale"):
    """Turn the projections of a folder's file to FP8; the weights that compressed-tensors makes of
    them again, by name.
    """
    scheme, again = scheme_of(strategy), {}
    compressor = BaseCompressor.get_value_from_registry("float-quantized")

    def change(values):
        found = dict(values)
        for name, weight in values.items():
            if "_proj" not in name or weight.ndim != 2:
                continue
            top = largest(weight, strategy)
            scale, _ = calculate_qparams(-top, top, scheme.weights)
            state = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
            again[name] = compressor.decompress(state, scheme)["weight"]
            stem = name.removesuffix("weight")
            found |= {name: state["weight"], stem + named: scale}
        return found

    weights(folder, change)
    return again


def compressed(strategy):
    """config.json's field for that."""
    group = scheme_of(strategy).model_dump(mode="json")
    said = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    return said | {"config_groups": {"group_0": group}, "ignore": ["lm_head"]}


def declare(folder, strategy):
    say(folder, quantization_config=compressed(strategy))
