"""Every family cut as far as its files allow: masked, sliced and loaded by transformers it says the
same; scores of gates.
"""

import numpy as np
import pytest
import torch
from conftest import shaken
from family_models import FORMS, theirs_of
from test_family_parity import tokens_for
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.errors import UserError
from minipuzzle.importance import Collector, HiddenCollector
from minipuzzle.kinds import Attention, DeltaNet, Experts, FeedForward, Mamba2
from minipuzzle.model import load_model
from minipuzzle.model.base import Context
from minipuzzle.surgery import cut, verify_logits


def most(architecture, seed=0):
    """A selection that narrows whatever the family can write narrower, and drops its second
    unit.
    """
    rng = np.random.default_rng(seed)
    rules, blocks, last = architecture.rules, [], architecture.layer_groups[1]
    heads, kv = rng.permutation(2)[:1], rng.random(64)
    width = max(block.sizes.get("intermediate", 1) for block in architecture.blocks)
    channels = sorted(rng.permutation(width)[:16].tolist())
    for i, block in enumerate(architecture.blocks):
        kept = {}
        if isinstance(block, FeedForward):
            kept = {"intermediate": tuple(channels)}
        elif isinstance(block, Attention) and "kv_heads" not in rules.fixed:
            kept = block.searched[0].keep(block, kv[: block.q_heads], block.kv_heads // 2)
        elif isinstance(block, Experts | DeltaNet):
            for width in block.own_widths:
                values, whole = rng.random(width.score_shape(block)), block.sizes[width.axis]
                # transformers' grouped products want rows of whole 16 bytes
                step = 8 if block.stacks and width.axis not in ("experts", "top_k") else 1
                size = max(1, whole * 2 // 3 // step * step)
                size = 6 if width.axis == "experts" else size
                kept |= width.keep(block, values, size, kept)
        elif isinstance(block, Mamba2) and rules.allows(block.resized(heads=block.heads // 2)):
            per = block.heads // block.groups
            kept = {"heads": tuple(h for h in range(block.heads) if (h % per) % 2 == heads[0])}
        blocks.append(None if i in last else kept)
    size = architecture.hidden // 2
    narrower = rules.allows_hidden(architecture.blocks, size)
    hidden = (
        tuple(sorted(rng.permutation(architecture.hidden)[:size].tolist())) if narrower else None
    )
    return Selection(blocks=tuple(blocks), hidden=hidden)


CUT = [(name, next(iter(forms))) for name, forms in FORMS.items()]
CUT += [
    ("llama", "linear, biases, own head_dim"),
    ("mamba2", "tied, biases, one group"),
    ("granitemoehybrid", "rope, tied"),
    ("granitemoehybrid", "experts"),
    ("nemotron_h", "experts"),
    ("nemotron_h", "latent experts in groups, dense too"),
    ("qwen3_moe", "dense layers, gates that sum to 1, bias"),
    ("olmoe", "gates that sum to 1, bias, yarn"),
]
FREE = ["nemotron_h", "llama", "mistral", "mixtral", "olmo2", "olmo3", "olmo_hybrid"]
FREE += ["qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"]
"""Families whose hidden size a search may choose."""


@pytest.mark.parametrize(("name", "form"), CUT, ids=lambda part: part)
def test_masked_sliced_and_theirs_agree(name, form, tmp_path):
    theirs_of(name, FORMS[name][form]).save_pretrained(tmp_path / "parent")
    parent = Checkpoint.open(tmp_path / "parent")
    selection = most(parent.architecture)
    assert (selection.hidden is not None) == (name in FREE)
    tokens = torch.randint(0, 119, (2, 40), generator=torch.Generator().manual_seed(2))
    student = cut(parent, selection, tmp_path / "student")
    assert student.parameters < parent.parameters
    assert verify_logits(parent, student, selection, tokens.numpy(), torch.device("cpu")) < 1e-5
    theirs = AutoModelForCausalLM.from_pretrained(student.path).eval()
    for module in theirs.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.0, float("inf"))
    assert sum(p.numel() for p in theirs.parameters()) == student.parameters
    with torch.no_grad():
        assert (
            theirs(tokens, use_cache=False).logits - load_model(student)(tokens)
        ).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["llama", "bamba"])
def test_a_torn_layer_is_not_written(name, tmp_path):
    theirs_of(name, next(iter(FORMS[name].values()))).save_pretrained(tmp_path / "parent")
    parent = Checkpoint.open(tmp_path / "parent")
    torn = Selection(blocks=(None, *({} for _ in parent.architecture.blocks[1:])))
    with pytest.raises(UserError, match="single block of a layer"):
        cut(parent, torn, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_flops_are_torchs():
    theirs = theirs_of("llama", FORMS["llama"]["plain"])
    tokens = tokens_for(theirs, 16)[:1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        theirs(tokens, use_cache=False)
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    architecture = shaken_llama(packed=False).architecture
    assert flops_per_token(architecture, 1).matmul * 16 == sum(
        n for op, n in counted.items() if "mm" in op
    )


def shaken_llama(packed):
    """Attention and SwiGLU; with a packed gate the same numbers in one matrix."""
    blocks = 3 * (
        Attention(hidden=32, q_heads=4, kv_heads=2, attn_head_dim=8),
        FeedForward(hidden=32, intermediate=48, gated=True, packed=packed, activation="silu"),
    )
    return shaken(Architecture(vocab_size=120, hidden=32, blocks=blocks))


@pytest.fixture
def gates():
    apart, packed = shaken_llama(packed=False), shaken_llama(packed=True)
    state = apart.state_dict()
    for name in [n for n in state if n.endswith("gate_proj.weight")]:
        up = state.pop(name.replace("gate_proj", "up_proj"))
        state[name.replace("gate_proj", "gate_up_proj")] = torch.cat((state.pop(name), up))
    packed.load_state_dict(state)
    return apart, packed


@pytest.mark.parametrize(
    "estimator", ["minitron", "minitron-pre", "flap", "contribution", "magnitude"]
)
def test_a_channel_of_a_gate_is_one_channel(gates, estimator):
    found = []
    for model in gates:
        module, block = model.blocks[1], model.architecture.blocks[1]
        x = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(0))
        with (
            torch.no_grad(),
            Collector(block, module, estimator) as collector,
            HiddenCollector(block, module),
        ):
            module.branch(x, Context())
        found.append(collector.scores()["intermediate"])
        assert found[-1].shape == (48,)
    assert np.allclose(found[0], found[1], rtol=1e-5)
    module = gates[0].blocks[1]
    with torch.no_grad():
        gate, up = module.gate_proj(module.norm(x)), module.up_proj(module.norm(x))
    read = {"minitron": torch.nn.functional.silu(gate) * up, "minitron-pre": up}
    if estimator in read:
        want = np.sqrt(np.square(read[estimator].abs().mean(1).numpy().astype(np.float64)).sum(0))
        assert np.allclose(found[0], want, rtol=1e-5)
    if estimator == "magnitude":
        rows = torch.cat((module.gate_proj.weight, module.up_proj.weight), 1).detach().numpy()
        assert np.allclose(found[0], np.linalg.norm(rows, axis=1), rtol=1e-5)
