"""Models with experts in FP8: training leaves them whole, inference may keep them as codes."""

import pytest
import torch
from conftest import save, shaken

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.kinds import Attention, Experts
from minipuzzle.memory.inference import weight_bytes
from minipuzzle.model import fp8_model, init_model, set_precision
from minipuzzle.model.base import Context
from minipuzzle.model.fp8_weights import require_grouped

TOKENS = torch.arange(24).view(2, 12) % 61


def model(width=32):
    e = Experts(hidden=32, experts=4, top_k=2, expert_width=width, shared_width=48)
    a = Attention(hidden=32, q_heads=4, kv_heads=2, attn_head_dim=8)
    return init_model(Architecture(vocab_size=61, hidden=32, blocks=(e, a, e, e)), 0)


def test_training_leaves_routed_experts_as_they_are():
    """docs/decisions/fp8-and-experts.md; the shared expert is two linear layers."""
    made = model(width=24)  # no multiple of 16
    layers = set_precision(made, "fp8-emulated", 1)
    assert [name for name in layers if name.startswith("blocks.2.")] == [
        "blocks.2.shared_up_proj",
        "blocks.2.shared_down_proj",
    ]
    hidden = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (quantised,) = watched(made.blocks[2], hidden)
        set_precision(made, "bf16", 0)
        (whole,) = watched(made.blocks[2], hidden)
    assert torch.equal(quantised, whole)


def watched(block, hidden):
    """The outputs of the experts' rows."""
    seen = []
    handle = block.watch("routed", lambda routed: seen.append(routed.outputs))
    block.mixer(hidden, Context())
    handle.remove()
    return seen


@torch.no_grad()
def test_stored_stacks(tmp_path):
    trained = shaken(model().architecture)
    save(trained, tmp_path / "x", tokenizer=False)
    stored = fp8_model(
        trained.architecture,
        Checkpoint.open(tmp_path / "x"),
        device=torch.device("cpu"),
        dtype=torch.float32,
        kernels=trained.kernels,
    )
    plain = trained(TOKENS)
    off = (stored(TOKENS) - plain).norm() / plain.norm()  # tests/test_grouped_fp8.py: exactly
    assert 0.001 < off < 0.1
    held = sum(t.nbytes for t in [*stored.parameters(), *stored.buffers()])
    corrections = 3 * 4 * 4
    assert held - corrections == weight_bytes(trained.architecture, 4, fp8=True)
    assert held < 0.5 * sum(p.nbytes for p in trained.parameters())


def test_what_is_refused(tmp_path):
    odd = model(width=24)
    save(odd, tmp_path / "x", tokenizer=False)
    with pytest.raises(UserError, match="cannot be multiplied") as error:
        fp8_model(
            odd.architecture,
            Checkpoint.open(tmp_path / "x"),
            device=torch.device("cpu"),
            dtype=torch.float32,
            kernels=odd.kernels,
        )
    assert error.value.got.startswith("blocks.0.experts.up_proj [4, 24, 32]")
    assert "experts.down_proj: expert_width" in error.value.allowed
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="Experts cannot multiply in FP8") as error:
            require_grouped(torch.device("cpu"))
        assert error.value.got == "no CUDA device"
