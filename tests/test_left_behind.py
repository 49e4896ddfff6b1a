"""What fails half-way leaves nothing on a model that is kept: masks, hooks, modes, precision."""

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny

import minipuzzle as mp
from minipuzzle.arch import Selection
from minipuzzle.data import TokenBlocks
from minipuzzle.importance.estimators.taylor import taylor_scores
from minipuzzle.model import HybridLM, set_precision
from minipuzzle.settings import Training
from minipuzzle.training import train

FAILURES = (
    KeyboardInterrupt,
    torch.OutOfMemoryError,
    mp.UserError("Too much.", got=1, allowed=0, next="Less."),
)
TEXT = "a b c d e f g h " * 400


def blocks(count=8, length=16):
    tokens = np.random.default_rng(0).integers(0, 4096, (count, length)).astype(np.uint16)
    return TokenBlocks(
        tokens=tokens,
        documents=np.zeros((count, length), np.int32),
        fingerprint="x",
        text_bytes=tokens.size,
    )


def state(model):
    """What of a model is neither weights nor architecture."""
    modules = {
        name: (
            type(m),
            m.training,
            vars(m).get("kept"),
            len(m._forward_hooks),
            len(m._forward_pre_hooks),
        )
        for name, m in model.named_modules()
    }
    wanted = [p.requires_grad for p in model.parameters()]
    return (
        modules,
        wanted,
        model._dropped,
        model._hidden_mask,
        model.recomputed,
        model.fp8_layers[:],
    )


@pytest.fixture
def job(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    text = str(tmp_path / "text.txt")
    path = save(shaken(tiny()), tmp_path / "model")
    return mp.load(
        path,
        run=tmp_path / "run",
        device="cpu",
        data=mp.Data(train=text, calibration=text, validation=text, length=16),
    )


@pytest.mark.parametrize("failure", FAILURES, ids=["ctrl-c", "oom", "user-error"])
def test_a_search_that_is_interrupted_leaves_the_parent_whole(failure, job, monkeypatch):
    """The next evaluate takes it as teacher, whose loss went from 3.1762 to 3.8528."""
    mp.score(job, mp.ScoreSettings(samples=4, block_samples=2, curves=False))
    before, whole = state(job.parent_model), mp.evaluate(job).rows[0]
    calls, blocks = [], len(job.parent_model.blocks)
    usual = HybridLM._context

    def fails(model, index, *words):
        calls.append(vars(model.blocks[index]).get("kept"))
        if len(calls) > blocks and (calls[-1] is not None or index == blocks - 1):
            raise failure
        return usual(model, index, *words)

    monkeypatch.setattr(HybridLM, "_context", fails)  # asked for under a candidate's masks
    kind = failure if isinstance(failure, type) else type(failure)
    with pytest.raises(kind):
        mp.search(
            job, mp.SearchSettings(budget=("97%",), candidates=6, validation_blocks=4, multiple=8)
        )
    monkeypatch.undo()
    assert len(calls) > blocks
    assert state(job.parent_model) == before
    assert mp.evaluate(job).rows[0].loss == whole.loss


@torch.no_grad()
def test_masks_nest_and_a_wrong_selection_changes_nothing():
    model = shaken(tiny("M-M*-"))
    tokens = torch.randint(0, 4096, (1, 20), generator=torch.Generator().manual_seed(0))
    outer = Selection(
        blocks=({}, {"intermediate": tuple(range(16))}, {}, {}, {}), hidden=tuple(range(0, 32, 2))
    )
    inner = Selection(blocks=({}, None, {}, {}, {}))
    whole, before = model(tokens), state(model)
    with model.masked(outer):
        first = model(tokens)
        with model.masked(inner):
            assert not torch.equal(model(tokens), first)
        assert torch.equal(model(tokens), first)
        with (
            pytest.raises(mp.UserError),
            model.masked(Selection(blocks=({"state": (0,)}, {}, {}, {}, {}))),
        ):
            pass
        assert torch.equal(model(tokens), first)
    assert state(model) == before
    assert torch.equal(model(tokens), whole)


@pytest.mark.parametrize("failure", FAILURES, ids=["ctrl-c", "oom", "user-error"])
def test_a_training_that_fails_leaves_mode_and_precision(failure, tmp_path):
    model = shaken(tiny(heads=16, head_dim=4)).eval()
    before = state(model)

    def objective(*_):
        raise failure

    settings = Training(
        tokens=256,
        batch=4,
        learning_rate=1e-3,
        precision="fp8-emulated",
        bf16_ends=1,
        activation_checkpointing="on",
    )
    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        train(model, objective, blocks(), settings, tmp_path, identity="x")
    assert state(model) == before


def test_a_layer_that_cannot_be_fp8_takes_none_with_it(monkeypatch):
    model = shaken(tiny(heads=16, head_dim=4)).eval()
    before = state(model)
    done = []

    def fails(layer):
        done.append(layer)
        if len(done) == 3:
            raise KeyboardInterrupt
        return emulated(layer)

    from minipuzzle.model import precision

    emulated = precision.emulated_linear
    monkeypatch.setattr(precision, "emulated_linear", fails)
    with pytest.raises(KeyboardInterrupt):
        set_precision(model, "fp8-emulated", 1)
    assert len(done) == 3
    assert state(model) == before


def test_taylor_scores_that_fail_leave_no_hook(monkeypatch):
    model = shaken(tiny())
    before = state(model)
    monkeypatch.setattr(
        "minipuzzle.importance.estimators.taylor._on_input",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        taylor_scores(model, blocks(), samples=2, batch=2)
    assert state(model) == before
