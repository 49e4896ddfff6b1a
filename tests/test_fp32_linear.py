"""A router's product of BF16 and FP32 by parts, against float64."""

from contextlib import nullcontext

import pytest
import torch

from minipuzzle.kernels.fp32_linear import SplitLinear, fp32_linear, split


def problem(dtype):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 96, generator=g).bfloat16().requires_grad_()
    return x, (torch.randn(12, 96, generator=g) / 10).to(dtype).requires_grad_()


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def test_parts_sum_to_the_whole():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    parts = split(x, 3)
    assert all(part.dtype == torch.bfloat16 for part in parts)
    assert torch.equal(parts[2].float() + parts[1].float() + parts[0].float(), x)
    assert 1e-6 < error(sum(p.float() for p in parts[:2]), x.double()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_exact_as_fp32(dtype):
    x, weight = problem(dtype)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    want = exact[0] @ exact[1].t()
    got = SplitLinear.apply(x, weight)
    assert got.dtype == torch.float32
    assert error(got, want) < 2e-7
    g = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    want.backward(g.double())
    got.backward(g)
    assert (x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, dtype)
    rounding = 3e-3  # BF16's own
    assert error(x.grad, exact[0].grad) < rounding
    nearest = exact[0].grad.bfloat16()
    assert (x.grad == nearest).float().mean() > 0.97  # 16 bits are enough to round as exact ones do
    assert error(weight.grad, exact[1].grad) < (rounding if dtype == torch.bfloat16 else 1e-5)


def test_other_inputs_are_multiplied_in_fp32():
    x, weight = problem(torch.float32)
    wide = x.detach().float()
    want = torch.nn.functional.linear(wide, weight)
    for context in (nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)):
        with context:
            assert torch.equal(fp32_linear(wide, weight), want)
            assert torch.equal(fp32_linear(x, weight), want)
