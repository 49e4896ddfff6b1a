"""The scores of a state's indices: B and C in float64, from weights alone; what each index adds to
the recurrence; and that what they keep is better than what chance keeps.
"""

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from helpers import TEXT
from scored_texts import VOCAB, texts, tokens
from tokenizers import Tokenizer

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.embedded import teacher_path
from minipuzzle.importance import Collector, taylor_scores
from minipuzzle.importance.products import RootProducts
from minipuzzle.model import load_model
from minipuzzle.model.base import Context

KEY = "groups*state"


def model_of(**sizes):
    return shaken(tiny("M", vocab=VOCAB, **sizes))


def width_of(block):
    return next(width for width in block.widths if width.axis == "state")


def collected(model, x, estimator="mixed"):
    with torch.no_grad(), Collector(model.blocks[0].block, model.blocks[0], estimator) as found:
        for part in x.split(3):
            model.hidden_states(part)
    return found.scores()


@torch.no_grad()
def pairs(model, x):
    """B and C [b, s, groups, state] in float64, each token's from the last tokens by a loop."""
    module, block = model.blocks[0], model.blocks[0].block
    h = model.embeddings.weight[x].double()
    normed = h / (h.square().mean(-1, keepdim=True) + module.norm.eps).sqrt()
    rows = (normed * module.norm.weight.double()) @ module.in_proj.weight.double().T
    rows = rows[..., 2 * block.inner : -block.heads]  # B|C
    kernel = module.conv.weight[block.inner :, 0].double()  # [B|C, k]
    out = module.conv.bias[block.inner :].double().expand_as(rows).clone()
    for back in range(block.conv_kernel):
        out[:, back:] += rows[:, : rows.shape[1] - back] * kernel[:, -1 - back]
    out = out * torch.sigmoid(out)
    return [part.unflatten(-1, (block.groups, block.state)).numpy() for part in out.chunk(2, -1)]


@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_the_formula_in_float64(groups):
    model, x = model_of(groups=groups), tokens(texts())
    bs, cs = pairs(model, x)
    want = np.sqrt(np.square(bs).mean((0, 1)) * np.square(cs).mean((0, 1)))
    for estimator in ("mixed", "minitron", "wanda"):
        assert np.allclose(collected(model, x, estimator)["state_channels"], want, rtol=1e-5)


def test_it_ranks_what_each_index_adds_where_tokens_are_independent():
    """The recurrence itself, token by token, on noise: the root mean square of C h of an index is a
    factor of its head times the score.
    """
    rng = np.random.default_rng(0)
    tokens_, heads, dim, state = 20_000, 2, 3, 6
    scale = np.stack([rng.uniform(0.5, 2, state) for _ in range(2)])
    bs, cs = (rng.normal(size=(tokens_, state)) * scale[i] for i in range(2))
    xs, decay = rng.normal(size=(tokens_, heads, dim)), np.array([0.6, 0.9])
    h, squares = np.zeros((heads, dim, state)), np.zeros((heads, state))
    for t in range(tokens_):
        h = decay[:, None, None] * h + xs[t][..., None] * bs[t]
        squares += np.square(h * cs[t]).sum(1)
    added = np.sqrt(squares / tokens_)  # [heads, state]
    reading = RootProducts(state)
    found = reading.reduce(torch.from_numpy(np.concatenate([bs, cs], 1))[None])
    reading.sums = {name: value.numpy() for name, value in found.items()}
    share = added / reading.scores()
    assert np.allclose(share, share.mean(1, keepdims=True), rtol=0.1)


def test_taylor_is_the_derivative_of_a_gate_on_what_c_reads():
    model = model_of().double()
    module, block = model.blocks[0], model.blocks[0].block
    found = taylor_scores(model, texts(), samples=4, batch=2).widths["state_channels"][0]
    gate = torch.ones(block.groups, block.state, dtype=torch.float64, requires_grad=True)
    module.kept_state = gate  # what a mask multiplies C with
    squares = torch.zeros_like(gate)
    for sample in torch.from_numpy(texts().take(4, seed=0).tokens.astype(np.int64)).split(1):
        logits = model(sample)[:, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample[:, 1:].flatten())
        squares += torch.autograd.grad(loss, gate)[0].square()
    assert np.allclose(found, (squares / 4).sqrt().numpy(), rtol=1e-4)


def test_watching_the_state_changes_nothing():
    model, x = model_of(), tokens(texts())
    module = model.blocks[0]
    h, got = model.embed(x), []
    with torch.no_grad():
        plain = module.branch(h, Context())
        handle = module.watch("state", got.append)
        assert torch.equal(module.branch(h, Context()), plain)
        handle.remove()
        module.branch(h, Context())
    assert len(got) == 1
    assert got[0].shape == (*x.shape, 2 * 2 * 8)


@torch.no_grad()
def test_what_it_keeps_of_the_embedded_teacher_is_better_than_chance():
    """Half of the state of every block alone: the error of what the block adds."""
    model = load_model(Checkpoint.open(teacher_path())).eval()
    words = Tokenizer.from_file(str(teacher_path() / "tokenizer.json")).encode(TEXT.read_text())
    x = torch.tensor(words.ids[: 4 * 256]).view(4, 256)
    h, better, rng = model.embed(x), [], np.random.default_rng(0)
    for block, module in zip(model.architecture.blocks, model.blocks, strict=True):
        if "state_channels" in block.score_shapes:
            width = width_of(block)
            with Collector(block, module, "mixed") as collector:
                whole = module.branch(h, Context())
            scores = collector.scores()["state_channels"]

            def error(values, block=block, module=module, width=width, whole=whole, h=h):
                with module.masked(width.keep(block, values, block.state // 2)):
                    return (module.branch(h, Context()) - whole).square().sum().item()

            chance = np.mean([error(rng.random(scores.shape)) for _ in range(4)])
            better.append(error(scores) / chance)
            assert error(-scores) > chance
        h = module(h, Context())
    assert len(better) > 3
    assert max(better) < 1
    assert np.mean(better) < 0.6
