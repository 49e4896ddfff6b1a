"""Models with experts that multiply in FP8: which stacks do, and what is refused."""

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
from minipuzzle.model.precision import require_grouped

TOKENS = torch.arange(24).view(2, 12) % 61


def model(width=32):
    e = Experts(hidden=32, experts=4, top_k=2, expert_width=width, shared_width=48)
    a = Attention(hidden=32, q_heads=4, kv_heads=2, attn_head_dim=8)
    return init_model(Architecture(vocab_size=61, hidden=32, blocks=(e, a, e, e)), 0)


def test_stacks_between_the_ends():
    made = model()
    names = list(made.state_dict())
    with torch.no_grad():
        plain = made(TOKENS)
        assert made.capturable
        layers = set_precision(made, "fp8-emulated", 1)
        assert not made.capturable  # the emulation asks for each expert's rows
        assert [name for name in layers if name.startswith("blocks.2.")] == [
            "blocks.2.shared_up_proj",
            "blocks.2.shared_down_proj",
            "blocks.2.experts.up_proj",
            "blocks.2.experts.down_proj",
        ]
        assert list(made.state_dict()) == names
        hidden = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
        changed = []
        for number in (0, 2, 3):
            block = made.blocks[number]
            (routed,) = watched(block, hidden)
            set_precision(made, "bf16", 0)
            (exact,) = watched(block, hidden)
            set_precision(made, "fp8-emulated", 1)
            off = ((routed - exact).norm() / exact.norm()).item()
            changed.append(0.005 < off < 0.15 if number == 2 else off == 0)
        assert changed == [True] * 3
        set_precision(made, "bf16", 0)
        assert torch.equal(made(TOKENS), plain)


def watched(block, hidden):
    """The outputs of the experts' rows."""
    seen = []
    handle = block.watch("routed", lambda routed: seen.append(routed.outputs))
    block.mixer(hidden, Context())
    handle.remove()
    return seen


def test_gradients_reach_the_stacks():
    made, grads = model(), []
    for precision in ("bf16", "fp8-emulated"):
        set_precision(made, precision, 0)
        made.zero_grad()
        made(TOKENS).logsumexp(-1).sum().backward()
        stack = made.blocks[2].experts
        grads.append([stack.up_proj.grad.clone(), stack.down_proj.grad.clone()])
    for plain, fp8 in zip(*grads, strict=True):
        off = ((plain - fp8).norm() / plain.norm()).item()
        assert 0.005 < off < 0.2


@torch.no_grad()
def test_stored_stacks_are_the_emulation_of_training(tmp_path):
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
    set_precision(trained, "fp8-emulated", 0)
    assert torch.equal(stored(TOKENS), trained(TOKENS))
    assert not torch.equal(stored(TOKENS), plain)
    held = sum(t.nbytes for t in [*stored.parameters(), *stored.buffers()])
    corrections = 3 * 4 * 4
    assert held - corrections == weight_bytes(trained.architecture, 4, fp8=True)
    assert held < 0.5 * sum(p.nbytes for p in trained.parameters())


def test_what_is_refused():
    with pytest.raises(UserError, match="cannot be multiplied") as error:
        set_precision(model(width=24), "fp8-emulated", 0)
    assert error.value.got.startswith("blocks.0.experts.up_proj [4, 24, 32]")
    assert "experts.down_proj: expert_width" in error.value.allowed
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="Experts cannot multiply in FP8") as error:
            require_grouped(torch.device("cpu"))
        assert error.value.got == "no CUDA device"
