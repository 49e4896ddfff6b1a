"""Any legal cut: the file computes what the masked parent computes, and transformers loads it."""

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import InternalError, UserError
from minipuzzle.kinds import Mamba2
from minipuzzle.model import load_model
from minipuzzle.surgery import cut, verify_logits

VOCAB = 61
CPU = torch.device("cpu")


def some(draw, size, least=1):
    return tuple(sorted(draw(st.sets(st.integers(0, size - 1), min_size=least, max_size=size))))


@st.composite
def cuts(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    arch = tiny(
        draw(st.text("M-*", min_size=1, max_size=5)),
        hidden=16,
        heads=groups * draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([4, 6])),
        groups=groups,
        intermediate=draw(st.integers(1, 24)),
        q_heads=4,
        kv_heads=draw(st.sampled_from([1, 2, 4])),
        vocab=VOCAB,
    )
    blocks = []
    uniform = draw(st.booleans())
    shared = {}
    for block in arch.blocks:
        kept = {}
        for axis in block.prunable:
            if axis == "kv_heads" or not draw(st.booleans()):
                continue
            if uniform and (block.kind, axis) in shared:
                kept[axis] = shared[block.kind, axis]
            elif axis == "heads" and isinstance(block, Mamba2):
                per = block.heads // block.groups
                count = draw(st.integers(1, per))
                kept[axis] = tuple(
                    sorted(
                        g * per + h
                        for g in range(groups)
                        for h in draw(st.permutations(range(per)))[:count]
                    )
                )
            elif axis == "q_heads":
                per = block.q_heads // block.kv_heads
                count = draw(st.integers(1, per))
                kept[axis] = tuple(
                    sorted(
                        g * per + h
                        for g in range(block.kv_heads)
                        for h in draw(st.permutations(range(per)))[:count]
                    )
                )
            elif axis == "groups*state":  # each group keeps its own
                count = draw(st.integers(1, block.state))
                kept[axis] = tuple(
                    g * block.state + n
                    for g in range(groups)
                    for n in sorted(draw(st.permutations(range(block.state)))[:count])
                )
            else:
                kept[axis] = some(draw, block.sizes[axis])
            shared[block.kind, axis] = kept[axis]
        blocks.append(kept)
    for i in range(len(blocks) - 1):
        if draw(st.integers(0, 3)) == 0:
            blocks[i] = None
    hidden = some(draw, arch.hidden, 8) if draw(st.booleans()) else None
    return arch, Selection(blocks=tuple(blocks), hidden=hidden)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(case=cuts())
def test_sliced_equals_masked_and_reloads_in_transformers(case, tmp_path_factory):
    arch, selection = case
    folder = tmp_path_factory.mktemp("cut")
    parent = Checkpoint.open(save(shaken(arch), folder / "parent", tokenizer=False))
    student = cut(parent, selection, folder / "student")
    model = load_model(parent).eval()
    tokens = torch.randint(0, VOCAB, (2, 37), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sliced = load_model(student).eval()(tokens)
        with model.masked(selection):
            masked = model(tokens)
    assert (masked - sliced).abs().max() <= 1e-5 * max(1.0, masked.abs().max().item())
    assert verify_logits(parent, student, selection, tokens.numpy(), CPU) <= 1e-5
    assert student.architecture == selection.student(arch)
    theirs = AutoModelForCausalLM.from_pretrained(folder / "student", trust_remote_code=True).eval()
    for layer in theirs.model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = (0.0, float("inf"))
    with torch.no_grad():
        logits = theirs(tokens, use_cache=False).logits
    assert (logits - sliced).abs().max() <= 1e-4 * max(1.0, sliced.abs().max().item())


def test_mask_of_everything_and_of_nothing_is_the_parent():
    model = shaken(tiny(vocab=VOCAB))
    tokens = torch.randint(0, VOCAB, (1, 20))
    with torch.no_grad():
        whole = model(tokens)
        with model.masked(Selection.everything(model.architecture)):
            assert torch.equal(model(tokens), whole)
        assert torch.equal(model(tokens), whole)


def test_norm_of_a_masked_group_counts_kept_channels_only():
    """Zeroing a head's weights is not removing it: the gated norm would still divide by its
    channels.
    """
    arch = tiny("M", heads=4, groups=1, vocab=VOCAB)
    model = shaken(arch)
    tokens = torch.randint(0, VOCAB, (1, 12))
    kept = Selection(blocks=({"heads": (0, 2)},))
    with torch.no_grad():
        with model.masked(kept):
            masked = model(tokens)
        channels = np.repeat([True, False, True, False], 8)
        model.blocks[0].gated_norm.weight[torch.from_numpy(~channels)] = 0
        zeroed = model(tokens)
    assert (masked - zeroed).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        ({"heads": (0, 1, 2)}, "equally many"),
        ({"heads": (0, 99)}, "indices"),
        ({"state": (0,)}, "state"),
        ({"heads": (4, 0)}, "indices"),
        ({"head_dim": ()}, "indices"),
    ],
)
def test_illegal_selections(kept, what):
    with pytest.raises(UserError, match=what):
        Selection(blocks=(kept,)).student(tiny("M"))


@pytest.mark.parametrize("narrower", [False, True])
def test_the_check_from_disk_finds_what_whole_models_differ_by(narrower, tmp_path, monkeypatch):
    """Block by block and the head in pieces; a file from which other channels were cut than
    planned.
    """
    arch = tiny("M-M*-", vocab=VOCAB)
    parent = Checkpoint.open(save(shaken(arch), tmp_path / "parent", tokenizer=False))
    hidden = tuple(range(0, 32, 2)) if narrower else None
    planned, other = (
        Selection(
            blocks=tuple(
                None
                if i == 2
                else {"intermediate": tuple(range(first, 32 + first))}
                if b.kind == "mlp"
                else {}
                for i, b in enumerate(arch.blocks)
            ),
            hidden=hidden,
        )
        for first in (0, 1)
    )
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, 40))
    saved = cut(parent, other, tmp_path / "saved")
    whole, sliced = load_model(parent).eval(), load_model(saved).eval()
    with torch.no_grad(), whole.masked(planned):
        want, got = (model(torch.from_numpy(tokens)) for model in (whole, sliced))
    apart = ((want - got).abs().max() / want.abs().max()).item()
    monkeypatch.setattr("minipuzzle.surgery.TOLERANCE", 10.0)
    monkeypatch.setattr("minipuzzle.surgery.HEAD_NUMBERS", 32 * 20)  # 61 words in 4 pieces
    found = verify_logits(parent, saved, planned, tokens, CPU)
    print(f"whole models {apart:.6f}, from disk {found:.6f} of the largest logit")
    assert found == pytest.approx(apart, rel=1e-4)
    assert found > 1e-2
    assert verify_logits(parent, saved, other, tokens, CPU) < 1e-5


def test_plan_is_not_file_is_an_error(tmp_path, monkeypatch):
    """A silent no-op, as peers had it: the file keeps an axis that was to shrink."""
    parent = Checkpoint.open(save(shaken(tiny()), tmp_path / "parent"))
    selection = Selection(
        blocks=tuple(
            {"heads": (0, 4)} if b.kind == "mamba" else {} for b in parent.architecture.blocks
        )
    )
    wrong = Selection.everything(parent.architecture)
    cut(parent, wrong, tmp_path / "whole")
    saved = Checkpoint.open(tmp_path / "whole")
    with pytest.raises(InternalError, match="does not compute what was planned"):
        verify_logits(parent, saved, selection, np.arange(32)[None], CPU)
    monkeypatch.setattr("minipuzzle.surgery.write_checkpoint", lambda *a, **k: None)
    (tmp_path / "target").mkdir()
    for file in (tmp_path / "whole").iterdir():
        (tmp_path / "target" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InternalError, match="not what was planned"):
        cut(parent, selection, tmp_path / "target")
