"""Experts in emulated FP8 against casts and products written out, and what FP8 refuses."""

from functools import partial

import pytest
import torch
from test_experts import EXPERTS, HIDDEN, TOP_K, problem

from minipuzzle.kernels import grouped, grouped_fp8
from minipuzzle.kernels.experts import Call, Order
from minipuzzle.kernels.fp8 import E4M3, quantize

run_emulated = partial(grouped.run_experts, multiply=grouped_fp8.emulated)


def rounded(x, over):
    """x as E4M3 holds it with a scale for each slice: sign * m * 2^e with 3 bits of m."""
    scale = 448 / x.abs().amax(over, keepdim=True)
    y = (x * scale).double()
    step = torch.exp2(torch.floor(torch.log2(y.abs().clamp(min=2.0**-6))) - 3)
    return ((y / step).round() * step / scale).float()


def test_scales_of_rows_and_matrices():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 16, generator=g) * torch.logspace(-3, 3, 5)[:, None]
    codes, scale = quantize(x, E4M3, (1,))
    assert scale.shape == (5, 1)
    assert (codes.float().abs().amax(1) == 448).all()
    assert torch.allclose(codes.float() / scale, rounded(x, (1,)), rtol=1e-6)
    stack = torch.randn(3, 4, 8, generator=g) * torch.tensor([1e-2, 1, 30])[:, None, None]
    codes, scale = quantize(stack, E4M3, (1, 2))
    assert scale.shape == (3, 1, 1)
    assert torch.allclose(codes.float() / scale, rounded(stack, (1, 2)), rtol=1e-6)


@pytest.mark.parametrize("back", [False, True])
def test_a_product(back):
    """Every expert's rows by its own matrix, both as E4M3 holds them."""
    (x, _, down, _), chosen = problem(False, torch.float32)
    order = Order.of(chosen, EXPERTS)
    down = down * torch.logspace(-2, 2, EXPERTS)[:, None, None]
    down = down * torch.logspace(-1, 1, down.shape[2])  # a scale for each expert's channel
    rows = x[order.order // TOP_K]
    stack = down if back else down.transpose(1, 2).contiguous()  # [E, d, I], [E, I, d]
    got = grouped_fp8.emulated(rows, stack, order, back)
    matrices = rounded(down, (1,))  # [E, d, I]
    exact = rounded(rows, (1,))
    want = torch.stack([row @ matrices[e] for row, e in zip(exact, order.experts, strict=True)])
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("activation", "gated"), [("relu2", False), ("silu", True)])
def test_sums_and_gradients_are_near_the_plain_ones(activation, gated):
    """E4M3 has 3 bits: some percent off, and not nothing."""
    tensors, chosen = problem(gated, torch.float32)
    ends = []
    for run in (grouped.run_experts, run_emulated):
        result = run(Call(*tensors, chosen, activation, gated))
        g = torch.linspace(-1, 1, HIDDEN).expand_as(result)
        ends.append([result, *torch.autograd.grad(result, tensors, g)])
    for plain, fp8 in zip(*ends, strict=True):
        off = ((plain - fp8).norm() / plain.norm()).item()
        assert 0.005 < off < 0.12
    assert (ends[1][2][3] == 0).all()  # of the expert without rows
