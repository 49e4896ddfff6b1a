"""Experts that are kept in FP8 against casts and products written out."""

import pytest
import torch
from test_experts import WIDTH, problem

from minipuzzle.kernels import grouped_fp8
from minipuzzle.kernels.experts import Call
from minipuzzle.kernels.fp8 import E4M3, quantize


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


@pytest.mark.parametrize(("activation", "gated"), [("relu2", False), ("silu", True)])
@torch.no_grad()
def test_stored_experts(activation, gated):
    """Rows by matrices, both as E4M3 holds them: a scale a row, and one for each output."""
    (x, up, down, weights), chosen = problem(gated, torch.float32)
    up = up * torch.logspace(-1, 1, up.shape[1])[:, None]  # a scale for each output
    stored = [grouped_fp8.stored_stack(stack) for stack in (up, down)]
    (up8, up_scale), (down8, down_scale) = stored
    call = Call(x, up8, down8, weights, chosen, activation, gated)
    got = grouped_fp8.run_stored(call, scales=(up_scale, down_scale))
    ups, downs, want = rounded(up, (2,)), rounded(down, (2,)), torch.zeros_like(x)
    for token, row in enumerate(rounded(x, (1,))):
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            y = ups[expert] @ row
            own = y[:WIDTH].sigmoid() * y[:WIDTH] * y[WIDTH:] if gated else y.relu() ** 2
            if own.any():
                want[token] += weight * (downs[expert] @ rounded(own, (0,)))
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-4 * want.abs().max())
