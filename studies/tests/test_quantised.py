"""The arithmetic of studies/quantised.py."""

import numpy as np
import pytest
import quantised_gguf
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from quantised_table import Result, rate, shown


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0"])
def test_llama_cpps_quantiser_is_called_as_ggufs_reads(name):
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    kind = GGMLQuantizationType[name]
    expected = dequantize(quantize(weight.numpy(), kind), kind)
    found = quantised_gguf.through_ggml(weight, name).numpy()
    # of the two only Q8_0 rounds ties alike
    assert np.mean(found != expected) < (1e-3 if name == "Q8_0" else 0.05)
    assert np.abs(found - weight.numpy()).max() < np.abs(weight.numpy()).max() / (
        10 if name == "Q5_0" else 100
    )


def test_q4_k_is_nearer_than_its_step_and_q5_0_takes_other_columns():
    weight = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    assert (
        0.01 < (quantised_gguf.through_ggml(weight, "Q4_K") - weight).square().mean().sqrt() < 0.1
    )
    assert [quantised_gguf.ggml_type(columns, "Q4_K") for columns in (192, 256, 384, 768)] == [
        "Q5_0",
        "Q4_K",
        "Q5_0",
        "Q4_K",
    ]


def test_q4_k_without_the_library_is_the_librarys():
    """But for the order of sums: one of 100 weights has a neighbouring code, errors are equal."""
    weight = torch.randn(128, 768, generator=torch.Generator().manual_seed(0)) * 0.02
    weight[0], weight[1], weight[2, :256] = weight[0].abs() + 1, -weight[1].abs() - 1, 0.0
    weight = weight.bfloat16().float()
    found = quantised_gguf.q4_k(weight)
    theirs = quantised_gguf.through_ggml(weight, "Q4_K")
    assert ((found - theirs).abs() > 1e-5 * theirs.abs()).float().mean() < 0.03
    ours, own = ((x - weight)[3:].square().sum().item() for x in (found, theirs))
    assert ours == pytest.approx(own, rel=2e-4)


def test_bytes_of_blocks_are_ggufs():
    for name, sizes in quantised_gguf.BLOCKS.items():
        assert sizes == GGML_QUANT_SIZES[GGMLQuantizationType[name]]


def row(at, seed, choice):
    numbers = {"bytes": 1, "loss": 1.0, "domains": {}, "kl": 0.0}
    return Result(way="qad", format="nvfp4", rate=at, seed=seed, choice=choice, **numbers)


def test_the_rate_is_that_of_the_first_seed():
    runs = [row(1.0, 0, 2.0), row(2.0, 1, 0.5), row(2.0, 0, 1.5), row(1.0, 1, 0.1)]
    assert rate(runs) == 2.0
    assert rate([row(1.0, 1, 2.0)]) is None
    assert (shown([1.0]), shown([1.0, 2.0], 1)) == ("+1.00 %", "+1.5 ± 0.5 %")
