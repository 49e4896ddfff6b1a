"""Grouped products against float64: sums, gradients, what is kept for them, what falls back."""

import pytest
import torch
import torch.nn.functional as F
from test_experts import EXPERTS, FORMS, HIDDEN, TOKENS, TOP_K, WIDTH, by_hand, gradients, problem

from minipuzzle.kernels import choose, experts, grouped, routing
from minipuzzle.kernels.experts import Call, Order
from minipuzzle.kernels.meta import mamba_ssm_meta
from minipuzzle.kinds import Experts, FeedForward
from minipuzzle.model.footprint import _Live

CPU, META = torch.device("cpu"), torch.device("meta")
BOUND = {torch.float32: 5e-7, torch.bfloat16: 8e-3}


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def counted(monkeypatch):
    """The shapes of the results of grouped_mm from now on."""
    found, real = [], F.grouped_mm

    def count(a, b, **options):
        found.append(tuple((result := real(a, b, **options)).shape))
        return result

    monkeypatch.setattr(F, "grouped_mm", count)
    return found


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(("activation", "gated"), FORMS)
@pytest.mark.parametrize("masked", [False, True])
def test_sums_and_gradients(activation, gated, masked, dtype, monkeypatch):
    tensors, chosen = problem(gated, dtype)
    kept = torch.rand(EXPERTS, WIDTH, generator=torch.Generator().manual_seed(2)) > 0.3
    kept = kept if masked else None
    exact = [t.detach().double().requires_grad_() for t in tensors]
    want, _, _ = by_hand(*exact, chosen, activation, gated, kept)
    products = counted(monkeypatch)
    got = grouped.run_experts(Call(*tensors, chosen, activation, gated, kept))
    assert len(products) == 2
    assert got.dtype == dtype
    assert error(got, want) < BOUND[dtype]
    grads = gradients(got, tensors)
    assert len(products) == 6
    for ours, theirs in zip(grads, gradients(want, exact), strict=True):
        assert ours.dtype == dtype
        assert error(ours, theirs) < BOUND[dtype]
    assert (grads[1][3] == 0).all()  # of the expert without rows
    assert (grads[2][3] == 0).all()
    with torch.no_grad():
        assert torch.equal(
            grouped.run_experts(Call(*tensors, chosen, activation, gated, kept)), got.detach()
        )


def test_frozen_matrices_cost_no_product(monkeypatch):
    tensors, chosen = problem(False, torch.float32)
    want = gradients(grouped.run_experts(Call(*tensors, chosen, "relu2", False)), tensors)
    for t in tensors[1:3]:
        t.requires_grad_(False)
    products = counted(monkeypatch)
    got = gradients(
        grouped.run_experts(Call(*tensors, chosen, "relu2", False)), [tensors[0], tensors[3]]
    )
    assert products == [(60, WIDTH), (60, HIDDEN), (60, WIDTH), (60, HIDDEN)]
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[3])


def test_kept_for_the_backward_pass_are_the_projected_rows():
    tensors, chosen = problem(True, torch.float32)
    packed = {}

    def pack(tensor):
        packed[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = grouped.run_experts(Call(*tensors, chosen, "silu", True))
    given = {t.untyped_storage().data_ptr() for t in tensors}
    own = [size for place, size in packed.items() if place not in given]
    assert own == [TOKENS * TOP_K * 2 * WIDTH * 4]
    assert result.requires_grad


@pytest.mark.parametrize("grad", [False, True])
def test_what_is_watched(grad):
    tensors, chosen = problem(True, torch.float32)
    ends = []
    for run in (grouped.run_experts, experts.run_experts):
        seen = []
        with torch.set_grad_enabled(grad):
            result = run(Call(*tensors, chosen, "silu", True, None, seen.append))
        (routed,) = seen
        values = [routed.channels, routed.outputs, routed.gates, routed.experts, routed.offsets]
        if grad:
            values += gradients(result, [routed.channels, routed.outputs])
        ends.append([result, *values])
    for ours, theirs in zip(*ends, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_grouped_mm_does_not_take_runs_in_the_loop(monkeypatch):
    products = counted(monkeypatch)
    tensors, chosen = problem(False)  # float64
    want = experts.run_experts(Call(*tensors, chosen, "relu2", False))
    assert torch.equal(grouped.run_experts(Call(*tensors, chosen, "relu2", False)), want)
    tensors, chosen = problem(False, torch.float32)
    narrow = [tensors[0], tensors[1][:, :6], tensors[2][..., :6], tensors[3]]  # 24 bytes
    want = experts.run_experts(Call(*narrow, chosen, "relu2", False))
    assert torch.equal(grouped.run_experts(Call(*narrow, chosen, "relu2", False)), want)
    assert products == []
    assert grouped.fits(CPU, torch.float32, 4, 12)
    assert not grouped.fits(CPU, torch.bfloat16, 4, 12)
    assert not grouped.fits(CPU, torch.float64, 16)


def test_products_agree():
    tensors, chosen = problem(False, torch.float32)
    order = Order.of(chosen, EXPERTS)
    rows = tensors[0][order.order // TOP_K]
    want = experts.looped(rows, tensors[1], order)
    for product in (grouped.grouped, grouped.gathered):
        assert torch.allclose(product(rows, tensors[1], order), want, rtol=1e-5, atol=1e-6)
    assert len(rows) > grouped.GATHERED  # more than a piece


def test_the_order_of_rows():
    chosen = torch.tensor([[4, 0], [1, 4], [0, 4]])
    order = Order.of(chosen, 6)
    assert order.experts.tolist() == [0, 0, 1, 4, 4, 4]
    assert order.order.tolist() == [1, 4, 2, 0, 3, 5]  # a token's neighbours stay in order
    assert order.inverse[order.order].tolist() == list(range(6))
    assert order.offsets.tolist() == [0, 2, 3, 3, 3, 6, 6]
    assert order.offsets.dtype == torch.int32  # what grouped_mm wants


@pytest.mark.parametrize(("tokens", "choices", "count"), [(1, 6, 128), (7, 3, 4), (60, 2, 9)])
def test_few_rows_are_ordered_by_comparing_them(tokens, choices, count):
    g = torch.Generator().manual_seed(0)
    ids = torch.rand(tokens, count, generator=g).argsort(1)[:, :choices].flatten()
    for ours, theirs in zip(
        experts._compared(ids, count), experts._sorted(ids, count), strict=True
    ):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fast", [False, True])
def test_on_meta(fast):
    """What is allocated: rows, then two of rows, projected rows, channels and outputs at once."""
    count, width = TOKENS * TOP_K, 2 * WIDTH
    shapes = ((TOKENS, HIDDEN), (EXPERTS, width, HIDDEN), (EXPERTS, HIDDEN, WIDTH))
    x, up, down = (torch.empty(s, dtype=torch.bfloat16, device=META) for s in shapes)
    weights = torch.empty(TOKENS, TOP_K, device=META)
    chosen = torch.empty(TOKENS, TOP_K, dtype=torch.int64, device=META)
    kernels = mamba_ssm_meta(choose(CPU)) if fast else choose(CPU)
    given = [x, up, down, weights, chosen]
    with torch.no_grad(), _Live(given) as live:
        result = kernels.run_experts(Call(*given, "silu", True))
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    pointers = count * 8 * 3 + 4 * (EXPERTS + 1)
    least = 2 * count * (HIDDEN + width)
    assert least <= live.peak <= least + pointers + 2 * TOKENS * HIDDEN if fast else least * 3


def test_what_cuda_compiles_is_one_graph_each():
    import torch._dynamo

    whole = lambda function: torch.compile(function, fullgraph=True, backend="eager")  # noqa: E731
    projected, ids = torch.randn(12, 16), torch.arange(12) // 2
    kept, weights = torch.rand(6, 8) > 0.5, torch.rand(12)
    for function, arguments in (
        (experts._compared, (ids, 6)),
        (routing._weights, (projected, ids.view(6, 2).repeat(2, 1), True, 2.5)),
        (grouped._gather, (projected, ids, 2)),
        (grouped._channels, (projected, ids, "silu", True, kept)),
        (grouped._sums, (projected, ids.view(6, 2), weights.view(6, 2))),
        (
            grouped._channels_backward,
            (projected, torch.randn(12, 8), weights, ids, "relu2", True, kept),
        ),
    ):
        got, want = whole(function)(*arguments), function(*arguments)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)
    torch._dynamo.reset()


def test_choose_says_how_experts_run():
    chosen = choose(CPU)
    assert chosen.run_experts is grouped.run_experts
    assert chosen.experts.startswith("torch's grouped_mm in BF16 and FP32; one after another in")
    blocks = [FeedForward(hidden=8, intermediate=8)]
    assert chosen.describe(blocks) == "reference (no CUDA device)"
    blocks.append(Experts(hidden=8, experts=4, top_k=2, expert_width=8))
    assert chosen.describe(blocks) == f"reference (no CUDA device); experts: {chosen.experts}"
    chosen = choose(CPU, "reference")
    assert chosen.run_experts is experts.run_experts
    assert chosen.experts == "one after another (requested)"
