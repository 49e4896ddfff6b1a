"""quantize with rounding gptq: what llm-compressor's function is given, and what the file has."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import save, shaken, tiny
from family_models import unclamped
from helpers import TEXT
from safetensors.torch import load_file
from test_kv_scales import source_of
from test_quantize import plain
from transformers import AutoModelForCausalLM

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.coding import rounded
from minipuzzle.errors import UserError
from minipuzzle.export import gptq
from minipuzzle.kinds import Experts
from minipuzzle.memory.formats import format_of
from minipuzzle.runs.calibrated import calibration
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.settings import Data

DATA = Data(calibration=str(TEXT), length=48)
WHERE = "llmcompressor.modifiers.gptq.gptq_quantize"
WITH = {"rounding": "gptq", "data": DATA, "samples": 2, "device": "cpu"}


def textbook(*, weights, hessians, scale, quant_args, percdamp, **_):
    """Optimal brain quantisation in FP64, a column at a time in the order of ``quant_args``: each
    is rounded, and those still to come take what that did least harm with. The inverse Hessian
    loses the column by elimination. Source: arXiv:2208.11580, of which GPTQ is the fast form."""
    w, h = weights[0].double().clone(), hessians[0].double()
    order = h.diagonal().argsort(descending=True) if quant_args.actorder else range(w.shape[1])
    inverse = torch.linalg.inv(h + percdamp * h.diagonal().mean() * torch.eye(len(h)))
    steps = scale[0].double().repeat_interleave(quant_args.group_size, 1)
    found = torch.zeros_like(w)
    for j in map(int, order):
        found[:, j] = (w[:, j] / steps[:, j]).round().clamp(-8, 7) * steps[:, j]
        error = (w[:, j] - found[:, j]) / inverse[j, j]
        w -= error[:, None] * inverse[j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return found[None].to(weights.dtype), torch.zeros(1), torch.zeros(1, dtype=torch.bool)


@pytest.fixture
def library(monkeypatch):
    """llm-compressor, or the textbook's algorithm where it is not installed; what it is asked."""
    asked = []
    try:
        real = gptq.function()
    except UserError:
        real = textbook
        parts = WHERE.split(".")
        for count in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:count]), SimpleNamespace())

    def watched(**given):
        asked.append({name: v.clone() for name, v in given.items() if torch.is_tensor(v)})
        answer = real(**given)
        asked[-1]["answer"] = answer[0][0]
        return answer

    monkeypatch.setitem(sys.modules, WHERE, SimpleNamespace(quantize_weight=watched))
    return asked


def read_by(path, tokens):
    """X^T X of what transformers' linear layers read, by the layers' names in the file."""
    asked = {"dtype": torch.float64, "experts_implementation": "eager"}
    theirs = unclamped(AutoModelForCausalLM.from_pretrained(path, **asked).eval())
    found = {}

    def read(name):
        def hook(module, given):
            rows = given[0].flatten(0, -2)
            found[name.replace("model.", "backbone.", 1)] = rows.T @ rows

        return hook

    def routed(name):
        def hook(module, given):
            hidden, chosen, _ = given
            for expert in range(module.num_experts):
                rows = hidden[(chosen == expert).any(-1)]
                own = name.replace("model.", "backbone.", 1) + f".{expert}"
                found[f"{own}.up_proj"] = rows.T @ rows
                rows = module.act_fn(rows @ module.up_proj[expert].T)
                found[f"{own}.down_proj"] = rows.T @ rows

        return hook

    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(read(name))
        if name.endswith(".experts"):
            module.register_forward_pre_hook(routed(name))
    with torch.no_grad():
        theirs(tokens, use_cache=False)
    return found


def dense():
    return shaken(tiny("M-*"))


def mixture():
    """With an expert that no token is routed to."""
    whole = tiny("M-")
    block = Experts(hidden=whole.hidden, experts=4, top_k=2, expert_width=32, shared_width=32)
    model = shaken(replace(whole, blocks=(whole.blocks[0], block)))
    model.get_buffer("blocks.1.router.correction")[3] = -100.0
    return model


@pytest.mark.parametrize(("make", "matrices"), [(dense, 8), (mixture, 12)])
@torch.no_grad()
def test_blocks_are_rounded_by_what_they_read_after_the_rounded_ones(
    make, matrices, library, tmp_path, caplog
):
    source = save(make(), tmp_path / "source")
    out = tmp_path / "out"
    run_quantize(source, out, "int4", 32, **WITH)
    plain(source, out, tmp_path / "plain")
    tokens = calibration(Checkpoint.open(source), DATA).tokens[:2]
    tokens = torch.from_numpy(tokens.astype("int64"))
    whole, after = read_by(source, tokens), read_by(tmp_path / "plain", tokens)
    assert len(library) == len(whole) == matrices
    weights, values = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    meant = load_file(tmp_path / "plain" / "model.safetensors")
    own = {
        name: i for i, call in enumerate(library) for name in weights if same(call, weights[name])
    }
    assert len(own) == matrices
    for name, i in own.items():
        layer, call = name.removesuffix(".weight"), library[i]
        reads = not layer.endswith(("out_proj", "o_proj", "down_proj"))
        # what writes into the stream reads what its own block makes of it before it is rounded
        first = layer.startswith("backbone.layers.0.")
        expected = after[layer] if reads else whole[layer] if first else None
        if ".experts.3." in layer:
            assert not whole[layer].any()
        elif expected is not None:
            close = (call["hessians"][0] - expected).abs().max()
            assert close <= 1e-4 * expected.abs().max(), name
        nearest = rounded(format_of("int4", 32), weights[name])
        steps = values[f"{layer}.weight_scale"].repeat_interleave(32, 1)
        assert torch.allclose(meant[name], call["answer"].float(), atol=1e-6), name
        assert (meant[name] / steps - (meant[name] / steps).round()).abs().max() < 1e-3
        hessian = call["hessians"][0].double()
        harm = [weighed(weights[name] - one, hessian) for one in (meant[name], nearest)]
        if ".experts.3." in layer:
            error, least = ((weights[name] - one).abs() for one in (meant[name], nearest))
            assert ((error - least) < 1e-3 * steps).all(), name  # half a step goes either way
        else:
            assert harm[0] < 0.9 * harm[1], name
    assert ("no token" in caplog.text) == (make is mixture)
    assert set(values) == set(load_nearest(source, tmp_path))


def test_gate_and_up_of_an_expert_are_rounded_by_the_same_tokens(library, tmp_path):
    source = source_of("qwen3_moe", tmp_path / "source", moe_intermediate_size=32)
    run_quantize(source, tmp_path / "out", "int4", 32, **WITH)
    weights = load_file(source / "model.safetensors")
    gates, ups = (
        [
            next(call["hessians"] for call in library if same(call, weights[name]))
            for name in (f"model.layers.0.mlp.experts.{e}.{part}_proj.weight" for e in range(4))
        ]
        for part in ("gate", "up")
    )
    assert all(map(torch.equal, gates, ups))
    assert not torch.equal(gates[0], gates[1])


def same(call, weight):
    given = call["weights"][0]
    return given.shape == weight.shape and torch.equal(given, weight.float())


def weighed(error, hessian):
    return float(torch.einsum("rc,cd,rd->", error.double(), hessian, error.double()))


def load_nearest(source, folder):
    run_quantize(source, folder / "nearest", "int4", 32)
    return load_file(folder / "nearest" / "model.safetensors")


def test_refused(library, tmp_path):
    source = save(shaken(tiny("M-")), tmp_path / "source")
    with pytest.raises(UserError, match="formats of 4 bits"):
        run_quantize(source, tmp_path / "out", "fp8", 128, **WITH)
    assert not (tmp_path / "out").exists()
    assert not library


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, WHERE, None)
    source = save(shaken(tiny("M-")), tmp_path / "source")
    with pytest.raises(UserError, match=r"minipuzzle\[gptq\]"):
        run_quantize(source, tmp_path / "out", "int4", 32, **WITH)
    assert not (tmp_path / "out").exists()
