"""Our forward against transformers' NemotronHForCausalLM: logits, gradients, cached decode, packed
documents.
"""

from dataclasses import replace

import pytest
import torch
from conftest import save, shaken, tiny
from form_sizes import NEMOTRON
from transformers import AutoModelForCausalLM, NemotronHConfig, NemotronHForCausalLM

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.generation import generate
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.model import HybridLM, load_model

BASE = {**NEMOTRON, "use_cache": False}
CONFIGS = {
    "plain": ({}, 53),
    "one group": ({"n_groups": 1}, 53),
    "groups = heads": ({"n_groups": 8}, 53),
    "head_dim 80": ({"mamba_head_dim": 80, "mamba_num_heads": 4}, 53),
    "3 queries a KV head": ({"num_attention_heads": 6, "num_key_value_heads": 2}, 53),
    "odd vocabulary": ({"vocab_size": 101}, 53),
    "only Mamba": ({"hybrid_override_pattern": "M"}, 53),
    "only attention": ({"hybrid_override_pattern": "*"}, 53),
    "only feed-forward": ({"hybrid_override_pattern": "-"}, 53),
    "length 1": ({}, 1),
    "length 2": ({}, 2),
    "chunk - 1": ({}, 15),
    "chunk": ({}, 16),
    "chunk + 1": ({}, 17),
    "3 chunks + 5": ({}, 53),
    "state 24, kernel 3": ({"ssm_state_size": 24, "conv_kernel": 3}, 37),
    "biases": ({"mlp_bias": True, "use_bias": True}, 21),
    "no conv bias": ({"use_conv_bias": False}, 21),
}


def theirs_of(fields, seed=0):
    torch.manual_seed(seed)
    model = NemotronHForCausalLM(NemotronHConfig(**{**BASE, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
    return unclamped(model)


def unclamped(model):
    """transformers 5.16-5.23 clamp dt from below in prefill, which NVIDIA's code does not (PR
    #48989).
    """
    for layer in model.model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = (0.0, float("inf"))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_parity(name, tmp_path):
    fields, length = CONFIGS[name]
    theirs = theirs_of(fields)
    theirs.save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    ours = load_model(checkpoint).eval()
    tokens = torch.randint(
        0, theirs.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1)
    )
    want, got = theirs(tokens, use_cache=False).logits, ours(tokens)
    assert (want - got).abs().max() <= 1e-4
    weights = torch.linspace(-1, 1, want.numel()).view_as(want)
    (want * weights).sum().backward()
    (got * weights).sum().backward()
    gradients = dict(theirs.named_parameters())
    floor = 1e-4 * max(
        p.grad.norm() for p in gradients.values()
    )  # one that is 0 (a query's of one token) is rounding in both
    for canonical, accepted in checkpoint.family.names(checkpoint.architecture).items():
        name = next(n for n in accepted if n in gradients)
        mine = dict(ours.named_parameters())[canonical].grad
        assert (mine - gradients[name].grad).norm() / gradients[name].grad.norm().clamp(
            min=floor
        ) < 1e-3, canonical


@pytest.mark.parametrize("pattern", ["M-M*-M-", "M", "*", "-"])
def test_cached_decode_equals_the_full_forward_and_theirs(pattern, tmp_path):
    theirs = theirs_of({"hybrid_override_pattern": pattern})
    theirs.save_pretrained(tmp_path)
    ours = load_model(Checkpoint.open(tmp_path)).eval()
    tokens = torch.randint(0, 120, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = ours(tokens)
        for prompt in (1, 3, 17):
            cache = ours.new_cache(2, 40)
            parts = [ours(tokens[:, :prompt], cache=cache)]
            parts += [ours(tokens[:, i : i + 1], cache=cache) for i in range(prompt, 40)]
            assert (torch.cat(parts, 1) - full).abs().max() < 1e-4
    if pattern == "M-M*-M-":
        want = theirs.generate(
            tokens[:, :9],
            max_new_tokens=12,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert generate(ours, tokens[:, :9], 12) == want[:, 9:].tolist()


def test_packed_documents_do_not_leak():
    model = shaken(tiny(vocab=61))
    tokens = torch.randint(0, 61, (1, 70), generator=torch.Generator().manual_seed(0))
    lengths = (1, 20, 2, 33, 14)
    documents = torch.cat([torch.full((n,), i, dtype=torch.int32) for i, n in enumerate(lengths)])[
        None
    ]
    with torch.no_grad():
        packed = model(tokens, documents)
        apart = torch.cat([model(part) for part in tokens.split(list(lengths), 1)], 1)
        together = model(tokens)
    assert (packed - apart).abs().max() < 1e-4
    assert (packed - together).abs().max() > 1e-2


def test_ours_loads_in_theirs(tmp_path):
    model = shaken(tiny(vocab=101))
    save(model, tmp_path, tokenizer=False)
    theirs = unclamped(AutoModelForCausalLM.from_pretrained(tmp_path).eval())
    tokens = torch.randint(0, 101, (2, 29))
    with torch.no_grad():
        assert (theirs(tokens, use_cache=False).logits - model(tokens)).abs().max() <= 1e-4


def test_tied_head():
    apart = shaken(tiny(vocab=61))
    with torch.no_grad():
        apart.head.weight.copy_(apart.embeddings.weight)
    tied = HybridLM(replace(apart.architecture, tied_head=True))
    assert "head.weight" not in tied.state_dict()
    tied.load_state_dict({n: v for n, v in apart.state_dict().items() if n != "head.weight"})
    assert sum(p.numel() for p in tied.parameters()) == tied.architecture.parameters
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(tied(tokens), apart(tokens))


def test_a_config_that_ties_the_head_is_read_as_transformers_does(tmp_path):
    theirs = theirs_of({"tie_word_embeddings": True})
    theirs.save_pretrained(tmp_path)
    ours = load_model(Checkpoint.open(tmp_path)).eval()
    tokens = torch.randint(0, 120, (1, 20))
    with torch.no_grad():
        assert (theirs(tokens, use_cache=False).logits - ours(tokens)).abs().max() <= 1e-4


def test_activation_checkpointing_changes_nothing():
    model = shaken(tiny(vocab=61)).train()
    tokens = torch.randint(0, 61, (2, 30))
    gradients = []
    for again in ((), ("mamba",), model.architecture.kinds):
        model.recomputed = frozenset(again)
        model.zero_grad()
        model(tokens).logsumexp(-1).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for found in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], found, strict=True))


def test_only_blocks_of_the_chosen_kinds_are_computed_again():
    model, ran = shaken(tiny(vocab=61)).train(), []
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda m, inputs, i=i: ran.append(i))
    blocks = range(len(model.blocks))
    for kinds in ((), ("mlp",), ("mamba", "attention"), model.architecture.kinds):
        ran.clear()
        model.recomputed = frozenset(kinds)
        model(torch.randint(0, 61, (2, 30))).sum().backward()
        again = [i for i in reversed(blocks) if model.architecture.blocks[i].kind in kinds]
        assert ran == [*blocks, *again]


def test_any_width_per_block():
    blocks = (
        Mamba2(hidden=24, heads=6, head_dim=4, groups=3, state=5, chunk_size=8),
        FeedForward(hidden=24, intermediate=7),
        Mamba2(hidden=24, heads=2, head_dim=10, groups=1, state=16, conv_kernel=2, chunk_size=4),
        Attention(hidden=24, q_heads=3, kv_heads=1, attn_head_dim=6),
        FeedForward(hidden=24, intermediate=1),
    )
    model = shaken(Architecture(vocab_size=31, hidden=24, blocks=blocks))
    assert sum(p.numel() for p in model.parameters()) == model.architecture.parameters
    assert model(torch.arange(31)[None]).shape == (1, 31, 31)
