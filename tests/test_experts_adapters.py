"""Adapters of experts: each matrix of a stack is a layer of its group."""

import pytest
import torch
from conftest import save, shaken, tiny

from minipuzzle.adapters import SavedAdapter, attach, detach, make_plan, merge, read_adapter
from minipuzzle.adapters.peft import export_peft
from minipuzzle.adapters.plan import Site
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose, grouped
from minipuzzle.kinds import Experts
from minipuzzle.memory.training import saved_bytes, training_peak
from minipuzzle.model import HybridLM, load_model, set_precision
from minipuzzle.model.base import Context
from minipuzzle.runs.checks import check_adapter
from minipuzzle.settings import AdapterSettings, Training

SIZES = {"hidden": 16, "experts": 4, "top_k": 2, "expert_width": 12}
FORMS = {
    "plain": {"shared_width": 8},
    "latent": {"latent": 8},
    "gated": {"gated": True, "activation": "silu"},
}
STACKS = ("experts.up_proj", "experts.down_proj", "experts.gate_up_proj")


def bare(form="plain"):
    blocks = (Experts(**SIZES, **FORMS[form]),) * 2
    return shaken(Architecture(vocab_size=61, hidden=16, blocks=blocks))


def adapted(mask, form="plain", rank=4, target="all"):
    """With factors that all matter."""
    model = bare(form)
    attach(model, make_plan(model.architecture, mask, rank=rank, alpha=6.0, target=target))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def by_the_formula(model, plain):
    """``plain`` with (alpha/r) diag(v) B diag(u) A added to each weight, matrix by matrix; the
    sums, which carry gradients back to the factors.
    """
    found = {}
    for group in model.adapters.plan.groups:
        factors = model.adapters.groups[group.name]
        ones = {"u": torch.ones(group.rank), "v": torch.ones(group.d_out)}
        layer = 0
        for site in group.sites:
            deltas = []
            for _ in range(site.stack or 1):
                a, b = (f if f.ndim == 2 else f[layer] for f in (factors.A, factors.B))
                u, v = (
                    ones[n] if getattr(factors, n) is None else getattr(factors, n)[layer]
                    for n in "uv"
                )
                scale = group.alpha / group.rank
                deltas.append(scale * torch.diag(v.to(b)) @ b @ torch.diag(u.to(a)) @ a)
                layer += 1
            name = f"blocks.{site.block}.{site.projections[0]}"
            name = name if site.stack else f"{name}.weight"
            delta = torch.stack(deltas) if site.stack else deltas[0]
            found[name] = plain.get_parameter(name).detach() + delta
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", ["lora", "tl5", "tl6"])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_forward_and_gradients_are_the_formulas(mask, form, dtype, off):
    """float64 runs one expert after another, FP32 by grouped products."""
    model, plain = adapted(mask, form).to(dtype), bare(form).to(dtype)
    tokens = torch.arange(60)[None] % 61
    weights = by_the_formula(model, plain)
    assert {n.split(".", 2)[2] for n in weights} & set(STACKS)
    want = torch.func.functional_call(plain, weights, (tokens,))
    got = model(tokens)
    assert (got - want).abs().max() < off * want.abs().max()
    factors = dict(model.adapters.named_parameters())
    ours, theirs = (
        torch.autograd.grad(logits.square().mean(), factors.values()) for logits in (got, want)
    )
    for name, a, b in zip(factors, ours, theirs, strict=True):
        assert (a - b).abs().max() < off * b.abs().max(), name


def test_each_matrix_is_a_layer():
    model = bare()
    tied, lora = (make_plan(model.architecture, mask, rank=2) for mask in ("tl6", "lora"))
    (up,) = (group for group in tied.groups if group.name == "moe-experts_up_proj-16x12")
    assert up.sites == tuple(
        Site(block=i, projections=("experts.up_proj",), rows=(12,), stack=4) for i in (0, 1)
    )
    assert up.trainable(tied.mask) == 2 * 16 + 2 * 12 + 8 * (2 + 12)  # A, B; u and v of 8 matrices
    assert up.lora == 8 * 2 * (16 + 12)
    assert sum(t.numel() for t in adapted("lora", rank=2).adapters.parameters()) == lora.trainable
    (only,) = make_plan(model.architecture, "lora", rank=2, target="experts.up").groups
    assert only.name == up.name


@pytest.mark.parametrize("mask", ["lora", "tl6"])
def test_file_and_merge(mask, tmp_path):
    base = Checkpoint.open(save(bare(), tmp_path / "base", tokenizer=False))
    model = adapted(mask)
    saved = SavedAdapter(
        plan=model.adapters.plan, tensors=model.adapters.tensors(), base=base.fingerprint
    )
    saved.write(tmp_path / "a.safetensors")
    again = read_adapter(tmp_path / "a.safetensors")
    assert again.fingerprint == saved.fingerprint
    assert merge(base, again, tmp_path / "merged") < 1e-6
    tokens = torch.arange(60)[None] % 61
    want = model(tokens)
    got = load_model(Checkpoint.open(tmp_path / "merged"))(tokens)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    detach(model)
    assert torch.equal(model(tokens), bare()(tokens))
    with pytest.raises(UserError, match=r"cannot be exported for PEFT"):
        export_peft(again, base, tmp_path / "peft")
    other = save(shaken(tiny("-E")), tmp_path / "other", tokenizer=False)
    with pytest.raises(UserError, match="for another model"):
        merge(
            Checkpoint.open(other), SavedAdapter(plan=saved.plan, tensors={}, base=None), tmp_path
        )


def test_fp8_beside_an_adapter_of_experts():
    """FP8 leaves the stacks whole, and their products of low rank beside them."""
    model, settings = HybridLM(tiny("-E-")), Training(precision="fp8-emulated", bf16_ends=1)
    attach(model, make_plan(model.architecture, "lora", rank=2, target="all"))
    check_adapter(settings, AdapterSettings(kind="lora", target="all"), [model.architecture])
    layers = set_precision(model, "fp8-emulated", 1)
    assert layers == ["blocks.1.shared_up_proj", "blocks.1.shared_down_proj"]
    model(torch.arange(12)[None]).sum().backward()
    assert all(p.grad is not None for p in model.adapters.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_what_is_kept_for_the_backward_pass_is_foretold(form):
    """In BF16: what autograd saves of the mixer, against estimates without and with an adapter."""
    model, tokens = adapted("lora", form, rank=8).bfloat16(), 256
    model(torch.arange(60)[None])  # folds the factors
    block, given = model.blocks[0], [*model.parameters(), *model.buffers()]
    x = torch.randn(1, tokens, 16).bfloat16().requires_grad_()
    given += [x, *(factor for group in model.adapters.groups.values() for factor in group.folded)]
    pointers = {t.untyped_storage().data_ptr() for t in _flat(given)}
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in pointers:
            held[storage.data_ptr()] = storage  # which keeps the place from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block.mixer(x, Context())
    kept = sum(storage.nbytes() for storage in held.values()) / tokens
    stream_and_input = 2 * 2 * 16
    plain = saved_bytes(block.block) - stream_and_input
    assert plain < kept / 1.5
    assert plain + 2 * block.block.adapter_values() == pytest.approx(kept, rel=0.2)
    one, all_ = (
        training_peak(model.architecture, 1000, trained=9, stacks=s) for s in (False, True)
    )
    assert all_.total - one.total == 2 * 1000 * 2 * block.block.adapter_values()


def _flat(tensors):
    return [t for entry in tensors for t in (entry if isinstance(entry, tuple) else (entry,))]


def test_ranks_that_no_grouped_product_takes_are_not_captured(monkeypatch):
    monkeypatch.setattr(grouped, "why_never", lambda device: "")
    for rank, whole in ((8, True), (4, False)):  # of BF16: 16 bytes, and 8
        architecture = tiny("-E")
        model = HybridLM(architecture, kernels=choose(torch.device("cpu")))
        attach(model, make_plan(architecture, "lora", rank=rank))
        assert model.capturable == whole
