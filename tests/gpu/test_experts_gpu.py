"""Routed experts on the GPU: grouped products in BF16 against the float64 loop, memory, CUDA graphs
and decode steps.
"""

import pytest
import torch

from minipuzzle.kernels import choose, experts, grouped, grouped_fp8
from minipuzzle.kernels.experts import Call
from minipuzzle.kernels.fp32_linear import fp32_linear
from minipuzzle.kernels.pointwise import replayed
from minipuzzle.kernels.routing import Routing, route

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
EXPERTS, TOP_K, HIDDEN, WIDTH, TOKENS = 16, 3, 256, 192, 700
FORMS = [("relu2", False), ("silu", True), ("relu2", True)]


def error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def problem(gated, tokens=TOKENS, weights=torch.float32):
    """[x, up, down, weights], all with gradients, and the choices, where expert 3 has none."""
    g = torch.Generator(device=CUDA).manual_seed(0)
    rand = lambda *s: torch.randn(*s, generator=g, device=CUDA)  # noqa: E731
    tensors = [
        rand(tokens, HIDDEN).bfloat16(),
        (rand(EXPERTS, (1 + gated) * WIDTH, HIDDEN) / HIDDEN**0.5).bfloat16(),
        (rand(EXPERTS, HIDDEN, WIDTH) / WIDTH**0.5).bfloat16(),
        rand(tokens, TOP_K).sigmoid().to(weights),
    ]
    order = torch.rand(tokens, EXPERTS - 1, generator=g, device=CUDA).argsort(1)[:, :TOP_K]
    return [t.requires_grad_() for t in tensors], order + (order >= 3)


def gradients(result, tensors):
    g = torch.Generator(device=CUDA).manual_seed(1)
    given = torch.randn(result.shape, generator=g, device=CUDA).to(result.dtype)
    return torch.autograd.grad(result, tensors, given.to(result.dtype))


@pytest.mark.parametrize(("activation", "gated"), FORMS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_sums_and_gradients(activation, gated, masked, weights):
    """In BF16 no worse than BF16's rounding, an expert without rows included."""
    run = choose(CUDA).run_experts
    assert run is grouped.run_experts
    tensors, chosen = problem(gated, weights=weights)
    g = torch.Generator(device=CUDA).manual_seed(2)
    kept = torch.rand(EXPERTS, WIDTH, generator=g, device=CUDA) > 0.3 if masked else None
    exact = [t.detach().double().requires_grad_() for t in tensors]
    want = experts.run_experts(Call(*exact, chosen, activation, gated, kept))
    got = run(Call(*tensors, chosen, activation, gated, kept))
    assert got.dtype == torch.bfloat16
    theirs = gradients(want, exact)
    torch.full((1 << 22,), torch.nan, device=CUDA)  # memory that is not written is seen
    ours = gradients(got, tensors)
    errors = [error(got, want), *(error(a, b) for a, b in zip(ours, theirs, strict=True))]
    print(f"{activation}{' gated' if gated else ''}{' masked' if masked else ''}: {errors}")
    assert max(errors) < 1e-2
    assert (ours[1][3] == 0).all()
    assert (ours[2][3] == 0).all()
    again = gradients(run(Call(*tensors, chosen, activation, gated, kept)), tensors)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))  # deterministic


def test_under_autocast_with_fp32_weights():
    tensors, chosen = problem(False)
    wide = [t.detach().float().requires_grad_() for t in tensors]
    want = gradients(grouped.run_experts(Call(*tensors, chosen, "relu2", False)), tensors)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        result = grouped.run_experts(Call(*wide, chosen, "relu2", False))
    assert result.dtype == torch.bfloat16
    for a, b in zip(gradients(result, wide), want, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a.to(b.dtype), b)


@pytest.mark.parametrize("grad", [False, True])
def test_what_is_watched(grad):
    tensors, chosen = problem(True)
    ends = []
    for run in (grouped.run_experts, experts.run_experts):
        seen = []
        with torch.set_grad_enabled(grad):
            result = run(Call(*tensors, chosen, "silu", True, None, seen.append))
        (routed,) = seen
        values = [result, routed.channels, routed.outputs, routed.gates]
        if grad:
            values += gradients(result, [routed.channels, routed.outputs])
        ends.append((values, routed))
    for ours, theirs in zip(ends[0][0], ends[1][0], strict=True):
        assert error(ours, theirs) < 1e-2
    assert torch.equal(ends[0][1].experts, ends[1][1].experts)
    assert torch.equal(ends[0][1].offsets, ends[1][1].offsets)


def test_a_forward_and_backward_pass_in_a_cuda_graph():
    """Routing included: other inputs, other choices, without a new capture."""
    tensors, _ = problem(False)
    router = torch.randn(EXPERTS, HIDDEN, device=CUDA) / HIDDEN**0.5
    routing = Routing(router="sigmoid", top_k=TOP_K, normalised=True, scaling=2.5)
    correction = torch.linspace(-0.1, 0.1, EXPERTS, device=CUDA)

    def step(x):
        weights, chosen = route(x.float() @ router.t(), routing, correction)
        result = grouped.run_experts(
            Call(x, tensors[1], tensors[2], weights, chosen, "relu2", False)
        )
        return result, *torch.autograd.grad(result.float().square().sum(), [x, *tensors[1:3]])

    fixed, side = tensors[0].detach().clone().requires_grad_(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(fixed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(fixed)
    for seed in (5, 6):
        g = torch.Generator(device=CUDA).manual_seed(seed)
        x = torch.randn(fixed.shape, generator=g, device=CUDA).bfloat16()
        with torch.no_grad():
            fixed.copy_(x)
        graph.replay()
        for got, want in zip(captured, step(x.requires_grad_()), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [1, 2, 40])
@torch.no_grad()
def test_a_decode_step_in_a_cuda_graph(tokens, dtype):
    """FP32, which has no grouped product, does not wait for the device either."""
    tensors, chosen = problem(True, tokens)
    tensors = [t.detach().to(dtype) for t in tensors]
    exact = experts.run_experts(Call(*(t.double() for t in tensors), chosen, "silu", True))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with replayed(), torch.cuda.stream(side):
        for _ in range(3):
            grouped.run_experts(Call(*tensors, chosen, "silu", True))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with replayed(), torch.cuda.graph(graph, stream=side):
        result = grouped.run_experts(Call(*tensors, chosen, "silu", True))
    graph.replay()
    assert error(result, exact) < (1e-2 if dtype == torch.bfloat16 else 1e-3)
    chosen.copy_((chosen + 1) % EXPERTS)  # other experts
    other = experts.run_experts(Call(*(t.double() for t in tensors), chosen, "silu", True))
    graph.replay()
    assert error(result, other) < (1e-2 if dtype == torch.bfloat16 else 1e-3)


def test_memory_of_a_forward_and_backward_pass():
    """Kept are the projected rows; without gradients no more than two of the rows' tensors."""
    tensors, chosen = problem(False, tokens=20000)
    for _ in range(2):  # the first compiles
        result = grouped.run_experts(Call(*tensors, chosen, "relu2", False))
        gradients(result, tensors)
        del result
    rows = 20000 * TOP_K
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    result = grouped.run_experts(Call(*tensors, chosen, "relu2", False))
    kept = torch.cuda.memory_allocated() - before - result.nbytes
    print(f"kept for the backward pass: {kept:,} bytes, projected rows {rows * WIDTH * 2:,}")
    assert rows * WIDTH * 2 <= kept < rows * (WIDTH * 2 + 4 * 8) * 1.1
    del result
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        grouped.run_experts(Call(*tensors, chosen, "relu2", False))
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < 1.15 * 2 * rows * (HIDDEN + WIDTH) + 2 * 20000 * HIDDEN


@pytest.mark.parametrize("tokens", [2, 300])
@torch.no_grad()
def test_stored_fp8(tokens):
    tensors, chosen = problem(True, tokens)
    x, up, down, weights = (t.detach() for t in tensors)
    (up8, up_scale), (down8, down_scale) = map(grouped_fp8.stored_stack, (up, down))
    got = grouped_fp8.run_stored(
        Call(x, up8, down8, weights, chosen, "silu", True), scales=(up_scale, down_scale)
    )
    codes = [t.cpu() for t in (x, up8, down8, weights, chosen)]
    want = grouped_fp8.run_stored(
        Call(*codes, "silu", True), scales=(up_scale.cpu(), down_scale.cpu())
    ).to(CUDA)
    assert got.dtype == torch.bfloat16
    print(f"stored FP8, {tokens} tokens: {error(got, want):.1e} from the emulation")
    assert error(got, want) < 3e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_routers_logits(dtype):
    """To FP32's last bits, under autocast too: matrix units round sums down, TF32 is 1e-4 off."""
    g = torch.Generator(device=CUDA).manual_seed(0)
    x = torch.randn(900, 512, generator=g, device=CUDA).bfloat16().requires_grad_()
    weight = (torch.randn(64, 512, generator=g, device=CUDA) / 20).to(dtype).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    given = torch.randn(900, 64, generator=g, device=CUDA)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = fp32_linear(x, weight)
    assert logits.dtype == torch.float32
    wanted = exact[0] @ exact[1].t()
    theirs = error(x.float() @ weight.float().t(), wanted)
    print(f"router's logits: {error(logits, wanted):.1e} off, in FP32 {theirs:.1e}")
    assert error(logits, wanted) < 2 * theirs + 1e-6
    want = torch.autograd.grad(wanted, exact, given.double())
    for a, b in zip(torch.autograd.grad(logits, [x, weight], given), want, strict=True):
        assert error(a, b) < 3e-3
