"""On the GPU: the loss's memory and gradients, transformer-engine against our emulation, compiled
norms, fused mixer.
"""

import gc

import pytest
import torch
import torch.nn.functional as F
from conftest import save, shaken, tiny

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.kernels import choose
from minipuzzle.kernels.fp8 import E4M3, E5M2, emulated_linear, engine, engine_linear, quantize
from minipuzzle.kernels.pointwise import relu_squared, rms_norm
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.memory.loss import loss_bytes
from minipuzzle.memory.training import LOADED, RESERVE, training_peak
from minipuzzle.model import HybridLM, frozen, init_model, keep_codes, load_frozen, set_precision
from minipuzzle.training import distillation, mixed_precision
from minipuzzle.training.head_loss import linear_loss

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


def error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def rand(*shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(
        *shape, generator=torch.Generator(device="cuda").manual_seed(seed), device="cuda"
    ).to(dtype)


@pytest.mark.parametrize("master", [torch.bfloat16, torch.float32])
def test_loss_memory_at_131072_words_of_8192_channels(master):
    """One 8k sequence: beyond inputs, weights and gradients at most 1.5 GiB are alive."""
    n, vocab, d = 8192, 131072, 8192
    head, other_head = (
        rand(vocab, d, seed=1).mul_(8 / d**0.5),
        rand(vocab, d, seed=2).mul_(8 / d**0.5),
    )
    hidden, other = rand(n, d), rand(n, d, seed=3)
    hidden.requires_grad_()
    head = head.to(master).requires_grad_()
    for _ in range(2):  # the first compiles
        hidden.grad = head.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        linear_loss(hidden, head, (other, other_head)).total.backward()
        peak = torch.cuda.max_memory_allocated() - before
    gradients = sum(t.numel() * t.element_size() for t in (hidden, head))
    extra = (peak - gradients) / 2**30
    copied = 2 * vocab * d * (master == torch.float32)
    told = loss_bytes(n, vocab, copies=copied, rounded=master == torch.bfloat16) / 2**30
    print(
        f"loss at {n} x {vocab} x {d}, head in {master}: {extra:.2f} GiB beyond inputs, weights and"
        f" gradients (estimate {told:.2f})"
    )
    assert extra < told + 4 * n * d / 2**30 + 0.1  # the FP32 gradient of the hidden states


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_loss_gradient_under_autocast(noise, once, monkeypatch):
    monkeypatch.setattr("minipuzzle.training.head_loss.makes_logits_once", lambda *heads: once)
    n, d, vocab = 1024, 512, 32768
    head = rand(vocab, d, dtype=torch.float32) * 8 / d**0.5
    head = (
        head.bfloat16().float()
    )  # what the products see, so that only the loss's own rounding counts
    teacher, apart = rand(n, d, seed=1), rand(n, d, seed=2)
    hidden = teacher + noise * apart
    leaves = [t.double().requires_grad_() for t in (hidden, head)]
    s, t = (
        torch.log_softmax(leaves[0] @ leaves[1].t(), -1),
        torch.log_softmax(teacher.double() @ head.double().t(), -1),
    )
    want = F.kl_div(s, t, log_target=True, reduction="sum")
    want.backward()
    ours = [t.clone().requires_grad_() for t in (hidden, head)]
    with mixed_precision(CUDA):
        found = linear_loss(*ours, (teacher, head))
    found.total.backward()
    errors = [error(a.grad, b.grad) for a, b in zip(ours, leaves, strict=True)]
    print(
        f"KL {want.item() / n:.3f} nats under autocast: gradient errors {errors[0]:.1e}"
        f" {errors[1]:.1e}"
    )
    assert max(errors) < 3e-3
    assert found.total.item() == pytest.approx(want.item(), rel=1e-3)


@pytest.mark.parametrize("x_dtype", [torch.bfloat16, torch.float32])
def test_codes_and_scales_equal_transformer_engine(x_dtype):
    te, _ = engine()
    import transformer_engine_torch as tex

    for ours, theirs in ((E4M3, tex.DType.kFloat8E4M3), (E5M2, tex.DType.kFloat8E5M2)):
        quantizer = te.Float8CurrentScalingQuantizer(theirs, device=CUDA)
        for scale in (1.0, 1e-4, 3e3):
            x = rand(256, 512, dtype=x_dtype) * scale
            got, want = quantizer(x), quantize(x, ours)
            assert torch.equal(got._scale_inv.flatten(), (1 / want[1]).flatten())
            assert torch.equal(got._data.view(ours).view(torch.uint8), want[0].view(torch.uint8))


@pytest.mark.parametrize("master", [torch.bfloat16, torch.float32])
def test_engine_linear_equals_the_emulation(master):
    plain = torch.nn.Linear(512, 768, bias=False, device="cuda", dtype=master)
    results = []
    for make in (engine_linear, emulated_linear):
        layer, x = make(plain), rand(4, 64, 512, seed=5).requires_grad_()
        assert next(layer.parameters()) is plain.weight
        plain.weight.grad = None
        with mixed_precision(CUDA):
            y = layer(x)
        y.backward(rand(4, 64, 768, seed=6))
        results.append((y, x.grad, plain.weight.grad))
    for name, got, want in zip(("y", "dx", "dw"), *results, strict=True):
        print(f"transformer-engine against emulation, {master}, {name}: {error(got, want):.1e}")
        assert error(got, want) < 1e-2
    assert results[0][2].dtype == master


def hybrid(vocab=4096):
    m = Mamba2(hidden=256, heads=16, head_dim=32, groups=2, state=64, chunk_size=64)
    f, a = (
        FeedForward(hidden=256, intermediate=1024),
        Attention(hidden=256, q_heads=8, kv_heads=2, attn_head_dim=32),
    )
    return Architecture(vocab_size=vocab, hidden=256, blocks=(m, f, a, m, f, a, m, f))


def test_model_in_fp8_names_gradients_and_back():
    model = init_model(hybrid(), 0, device="cuda")
    names, tokens = list(model.state_dict()), torch.randint(0, 4096, (2, 256), device="cuda")
    teacher = frozen(init_model(hybrid(), 1, device="cuda"))
    values = []
    for precision in ("bf16", "fp8", "fp8-emulated"):
        layers = set_precision(model, precision, 1)
        model.zero_grad()
        with mixed_precision(CUDA):
            loss = distillation(teacher)(model, tokens, None)
        (loss.total / loss.tokens).backward()
        values.append(
            (loss.total.item() / loss.tokens, model.blocks[4].up_proj.weight.grad.clone())
        )
        assert [n for n, _ in model.named_parameters()] == names
        assert len(layers) == (0 if precision == "bf16" else 16)
    set_precision(model, "bf16", 0)
    assert list(model.state_dict()) == names
    (bf16, g0), (fp8, g1), (emulated, g2) = values
    print(
        f"loss BF16 {bf16:.5f}, FP8 {fp8:.5f}, emulated {emulated:.5f}; FP8's gradient is"
        f" {error(g1, g0):.1e} from BF16's, {error(g1, g2):.1e} from the emulation's"
    )
    assert fp8 == pytest.approx(bf16, rel=1e-2)
    assert fp8 == pytest.approx(emulated, rel=2e-3)
    assert error(g1, g2) < error(g1, g0) < 0.3


def test_frozen_teacher_in_fp8_casts_its_weights_once():
    teacher = frozen(init_model(hybrid(), 1, device="cuda"))
    tokens = torch.randint(0, 4096, (2, 256), device="cuda")
    with torch.no_grad(), mixed_precision(CUDA):
        want = teacher.hidden_states(tokens)
        set_precision(teacher, "fp8", 1)
        first, second = teacher.hidden_states(tokens), teacher.hidden_states(tokens)
    assert torch.equal(first, second)
    assert 0 < error(first, want) < 0.15
    count = sum(teacher.get_submodule(path).weight.numel() for path in teacher.fp8_layers)
    other = frozen(init_model(hybrid(), 2, device="cuda"))
    set_precision(other, "fp8", 1)
    with torch.no_grad(), mixed_precision(CUDA):
        keep_codes(other).hidden_states(tokens)  # cuBLAS keeps 1 MiB for products of codes
    del other
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with torch.no_grad(), mixed_precision(CUDA):
        kept = keep_codes(teacher).hidden_states(tokens)
    print(f"codes alone against transformer-engine: {error(kept, first):.1e}")
    assert error(kept, first) < 2e-2
    del kept
    gc.collect()  # transformer-engine's modules hold on to what they ran with
    # BF16 and transformer-engine's codes before, ours now
    assert before - torch.cuda.memory_allocated() > 1.8 * count


def test_a_frozen_models_embedding_in_bf16_changes_nothing_under_autocast(tmp_path):
    model = shaken(tiny("M-*-", hidden=64, heads=16, head_dim=16))
    checkpoint = Checkpoint.open(
        save(model, tmp_path / "x", tokenizer=False)
    )  # FP32: both round it
    loaded = load_frozen(checkpoint, device=CUDA)
    assert loaded.embeddings.weight.dtype == torch.bfloat16
    wide = load_frozen(checkpoint, device=CUDA)
    wide.embeddings.weight.data = checkpoint.tensor("embeddings.weight").cuda().float()
    tokens = torch.randint(0, 4096, (2, 128), device="cuda")
    ends = []
    for frozen_one in (loaded, wide):
        with mixed_precision(CUDA), torch.no_grad():
            hidden = frozen_one.hidden_states(tokens)
            loss = linear_loss(
                hidden.flatten(0, 1), frozen_one.head_weight, targets=tokens.flatten()
            )
        ends.append((hidden, loss.total))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1].item() == pytest.approx(ends[1][1].item(), rel=1e-7)


def test_compiled_pointwise_functions():
    """One kernel each, BF16 in and out; their gradients as the plain ones'."""
    x, weight = rand(2, 300, 512), rand(512, dtype=torch.float32)
    for function, plain in (
        (
            lambda t: rms_norm(t, weight, 1e-5),
            lambda t: F.rms_norm(t.double(), (512,), weight.double(), 1e-5),
        ),
        (relu_squared, lambda t: t.double().relu().square()),
    ):
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        with mixed_precision(CUDA):
            y = function(a)
        assert y.dtype == torch.bfloat16
        want = plain(b)
        y.backward(rand(2, 300, 512, seed=1))
        want.backward(rand(2, 300, 512, seed=1).double())
        assert error(y, want) < 3e-3
        assert error(a.grad, b.grad) < 3e-3


@pytest.mark.parametrize("packed", [False, True])
def test_fused_mixer_equals_the_operations_one_by_one(packed):
    documents = (torch.arange(300, device="cuda") // 90).int().expand(2, -1) if packed else None
    made, tokens = init_model(hybrid(), 0), torch.randint(0, 4096, (2, 300), device="cuda")
    ends = []
    for name in ("mamba-ssm", "reference"):
        model = HybridLM(made.architecture, device="cuda", kernels=choose(CUDA, name))
        model.load_state_dict(made.state_dict())
        assert model.kernels.can_mix(2 * 512 + 2 * 128 + 16, 512 + 256) == (name == "mamba-ssm")
        with mixed_precision(CUDA):
            h = model.hidden_states(tokens, documents)
        (h.float() * rand(*h.shape, dtype=torch.float32)).sum().backward()
        ends.append((h, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    print(
        f"fused mixer{' packed' if packed else ''}: states apart"
        f" {error(ends[0][0], ends[1][0]):.1e}"
    )
    assert error(ends[0][0], ends[1][0]) < 2e-2
    worst = max(ends[1][1], key=lambda n: error(ends[0][1][n], ends[1][1][n]))
    print(f"  worst gradient {worst}: {error(ends[0][1][worst], ends[1][1][worst]):.1e}")
    assert error(ends[0][1][worst], ends[1][1][worst]) < 6e-2


@pytest.mark.parametrize("recomputed", [(), ("mlp",), ("mamba", "mlp", "attention")], ids=str)
def test_memory_estimate(recomputed):
    """The estimate before a run against what a step takes, both beyond the weights."""
    architecture = hybrid(vocab=32768)
    model = init_model(architecture, 0, device="cuda")
    model.recomputed = frozenset(recomputed)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    teacher, tokens = (
        frozen(init_model(architecture, 1, device="cuda")),
        torch.randint(0, 32768, (32, 1024), device="cuda"),
    )
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        with mixed_precision(CUDA):
            loss = distillation(teacher)(model, tokens, None)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    took = torch.cuda.max_memory_allocated() - before
    peak = training_peak(architecture, tokens.numel(), recomputed=recomputed)
    told = peak.without((*LOADED, RESERVE)).total
    print(
        f"a step takes {took / 2**30:.2f} GiB, {told / 2**30:.2f} estimated, recomputed"
        f" {recomputed}"
    )
    assert 0.6 < told / took < 1.7
