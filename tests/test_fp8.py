"""FP8's casts against torchao's emulation, bit by bit, and a model that trains with them."""

import warnings

import pytest
import torch
from conftest import shaken, tiny

from minipuzzle.arch import Architecture
from minipuzzle.data import pack
from minipuzzle.errors import UserError
from minipuzzle.kernels.fp8 import E4M3, E5M2, EmulatedLinear, emulated_linear, quantize
from minipuzzle.kinds import FeedForward
from minipuzzle.model import HybridLM, keep_codes
from minipuzzle.model.precision import set_precision
from minipuzzle.settings import Training
from minipuzzle.training import distillation, train

EVEN = {"heads": 16, "head_dim": 4, "vocab": 61}  # in_proj has 176 rows, a multiple of 16


def torchao_linear(linear):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

        wrapped = torch.nn.Sequential(linear)
        return convert_to_float8_training(wrapped, config=Float8LinearConfig(emulate=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
def test_bit_identical_to_torchao(dtype, scale):
    torch.manual_seed(0)
    oracle = torch.nn.Linear(64, 48, bias=False, dtype=dtype)
    ours = emulated_linear(oracle)
    assert ours.weight is oracle.weight
    x, g = torch.randn(2, 24, 64).to(dtype) * scale, torch.randn(2, 24, 48).to(dtype) / scale
    results = []
    for layer in (torchao_linear(torch.nn.Linear(64, 48, bias=False, dtype=dtype)), ours):
        weight = next(layer.parameters())
        with torch.no_grad():
            weight.copy_(oracle.weight)
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(g)
        results.append((y.detach(), leaf.grad, weight.grad))
    for name, got, want in zip(("y", "dx", "dw"), results[1], results[0], strict=True):
        assert got.dtype == want.dtype == dtype
        assert torch.equal(got, want), name
    exact = x.double() @ oracle.weight.double().t()
    assert 0.01 < ((results[1][0].double() - exact).norm() / exact.norm()).item() < 0.05


def test_quantize_edges():
    codes, scale = quantize(torch.tensor([0.0, -7.0, 3.5]), E4M3)
    assert codes.float().tolist() == [0.0, -448.0, 224.0]
    assert scale.item() == 64.0
    codes, scale = quantize(torch.zeros(3), E5M2)
    assert scale.item() == 1.0
    assert codes.float().abs().sum() == 0
    codes, _ = quantize(torch.tensor([1e-40, 0.0]), E5M2)  # amax so small that the scale overflows
    assert torch.isfinite(codes.float()).all()


def test_scaled_mm_agrees():
    """PyTorch's own FP8 product of the same codes."""
    x, w = torch.randn(32, 64), torch.randn(48, 64)
    (qx, sx), (qw, sw) = quantize(x, E4M3), quantize(w, E4M3)
    want = torch._scaled_mm(qx, qw.t(), scale_a=1 / sx, scale_b=1 / sw, out_dtype=torch.float32)
    layer = emulated_linear(torch.nn.Linear(64, 48, bias=False))
    with torch.no_grad():
        layer.weight.copy_(w)
        assert torch.allclose(layer(x), want, rtol=1e-6, atol=1e-5)


def test_ends_and_head_stay_and_names_do_not_change():
    architecture = tiny("M-*M-*M-", **EVEN)
    model = HybridLM(architecture)
    before = dict(model.named_parameters())
    layers = set_precision(model, "fp8-emulated", 2)
    assert layers == [
        "blocks.2.q_proj",
        "blocks.2.k_proj",
        "blocks.2.v_proj",
        "blocks.2.o_proj",
        "blocks.3.in_proj",
        "blocks.3.out_proj",
        "blocks.4.up_proj",
        "blocks.4.down_proj",
        "blocks.5.q_proj",
        "blocks.5.k_proj",
        "blocks.5.v_proj",
        "blocks.5.o_proj",
    ]
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is p for name, p in before.items())
    assert list(model.state_dict()) == list(HybridLM(architecture).state_dict())
    fp8 = [name for name, module in model.named_modules() if isinstance(module, EmulatedLinear)]
    assert sorted(fp8) == sorted(layers)
    assert set_precision(model, "bf16", 0) == []
    assert all(dict(model.named_parameters())[name] is p for name, p in before.items())
    assert not any(isinstance(module, EmulatedLinear) for module in model.modules())


def test_a_teachers_codes_alone_compute_the_same():
    """To the last bit, in less memory; BF16 ends stay, and there is no way back."""
    model = shaken(tiny("M-*-M-", hidden=64, heads=16, head_dim=8, vocab=512)).requires_grad_(False)
    tokens = torch.arange(64).view(2, 32)
    set_precision(model, "fp8-emulated", 1)
    layers, before = list(model.fp8_layers), held(model)
    want = model(tokens)
    count = sum(model.get_submodule(path).weight.numel() for path in layers)
    ends = list(model.blocks[0].parameters())
    assert keep_codes(model) is model
    assert torch.equal(model(tokens), want)
    assert before - held(model) == 3 * count - 4 * len(layers)  # FP32 is a byte now, and a scale
    assert all(a is b for a, b in zip(model.blocks[0].parameters(), ends, strict=True))
    set_precision(model, "bf16", 0)
    assert torch.equal(model(tokens), want)


def held(model):
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def test_training_in_fp8_stays_near_fp32(tmp_path):
    teacher = shaken(tiny("-M*-", **EVEN), 0).requires_grad_(False)
    tokens = (
        torch.randint(0, 61, (4 * 16,), generator=torch.Generator().manual_seed(0))
        .numpy()
        .astype("uint16")
    )
    blocks = pack(
        [tokens], block_length=16, vocab_size=61, seed=0, fingerprint="test", text_bytes=1
    )
    ends, losses = [], []
    for precision in ("bf16", "fp8-emulated"):
        student = shaken(tiny("-M*-", **EVEN), 1)
        settings = Training(
            tokens=16 * 4 * 6, batch=4, learning_rate=3e-3, precision=precision, bf16_ends=1
        )  # type: ignore
        losses.append(
            train(
                student, distillation(teacher), blocks, settings, tmp_path / precision, identity="x"
            )
        )
        ends.append(student)
    print(f"mean KL of 6 steps: {losses[0]:.4f}, in emulated FP8 {losses[1]:.4f}")
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert ends[1].fp8_layers == []  # what is evaluated and written afterwards is the BF16 model
    assert not any(isinstance(module, EmulatedLinear) for module in ends[1].modules())
    assert not torch.equal(ends[0].blocks[1].in_proj.weight, ends[1].blocks[1].in_proj.weight)


def test_what_cannot_run_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="cannot run here") as error:
            set_precision(HybridLM(tiny(**EVEN)), "fp8", 1)
        assert "fp8-emulated" in error.value.allowed
    with pytest.raises(UserError, match="cannot be multiplied") as error:
        set_precision(HybridLM(tiny("M-M")), "fp8-emulated", 0)
    assert error.value.got.startswith("blocks.0.in_proj.weight [168, 32]")
    blocks = (FeedForward(hidden=32, intermediate=64),) * 8
    with pytest.raises(UserError, match="No block"):
        set_precision(
            HybridLM(Architecture(vocab_size=64, hidden=32, blocks=blocks)), "fp8-emulated", 4
        )
