"""Streamed scores against the long way: hooks and whole forwards of the model in memory."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from helpers import TEXT, Watched

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import pack
from minipuzzle.errors import UserError
from minipuzzle.importance import peak as peak_module
from minipuzzle.importance import score, work
from minipuzzle.importance.curves import narrowings
from minipuzzle.importance.peak import block_bytes, check_peak, plan_peak
from minipuzzle.model import load_model
from minipuzzle.model.base import Context
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.model.prefetch import BlockReader
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings

VOCAB, LENGTH = 61, 20
CPU = torch.device("cpu")


def text(count=8):
    tokens = torch.randint(0, VOCAB, (count, LENGTH), generator=torch.Generator().manual_seed(0))
    return pack(
        [tokens.numpy().astype("uint32").ravel()],
        block_length=LENGTH,
        vocab_size=VOCAB,
        seed=0,
        fingerprint="t",
        text_bytes=1,
    )


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    architecture = tiny("M-M*-M-*", vocab=VOCAB)
    return Checkpoint.open(
        save(shaken(architecture), tmp_path_factory.mktemp("parent"), tokenizer=False)
    )


def run(parent, folder, **options):
    options = {"samples": 6, "block_samples": 3, "batch": 2, **options}
    return score(parent, text(), ScoreSettings(**options), device=CPU, partial=folder / "partial")


def samples(count, of=6):
    return torch.from_numpy(text().take(of, seed=0).tokens[:count].astype(np.int64))


def ends(model, blocks, x):
    """(hidden states before the head, logits) of the model that keeps what ``blocks`` says."""
    with model.masked(Selection(blocks=tuple(blocks))):
        return model.hidden_states(x), model(x)


def without(model, *removed):
    return [None if j in removed else {} for j in range(len(model.blocks))]


def distance(metric, full, changed, x):
    (h, logits), (h2, logits2) = full, changed
    if metric == "mse":
        return (h - h2).square().mean().item()
    if metric == "logit-mse":
        return ((logits - logits2).square().sum() / logits.square().sum()).item()
    p, q = logits.log_softmax(-1), logits2.log_softmax(-1)
    if metric == "kl":
        return (p.exp() * (p - q)).sum(-1).mean().item()
    picked = [-t[:, :-1].gather(2, x[:, 1:, None]).mean().item() for t in (q, p)]
    return picked[0] - picked[1]


@pytest.mark.parametrize("metric", ["mse", "logit-mse", "kl", "loss"])
@torch.no_grad()
def test_removal_equals_masking_each_block(parent, tmp_path, metric):
    scores = run(parent, tmp_path, metric=metric, curves=False)
    model, x = load_model(parent).eval(), samples(3)
    full = ends(model, without(model), x)
    want = [distance(metric, full, ends(model, without(model, i), x), x) for i in range(8)]
    assert scores.blocks == pytest.approx(want, rel=1e-3, abs=1e-6)
    assert not scores.curves


@pytest.mark.parametrize("metric", ["mse", "kl"])
@torch.no_grad()
def test_curves_equal_masking_the_narrow_block(parent, tmp_path, metric):
    scores = run(parent, tmp_path, metric=metric)
    model, x = load_model(parent).eval(), samples(3)
    full = ends(model, without(model), x)
    assert sorted(scores.curves) == list(range(8))
    for i, block in enumerate(parent.architecture.blocks):
        ((axis, (sizes, errors)),) = scores.curves[i].items()
        assert [(axis, n) for n in sizes] == narrowings(block)
        for size, error in zip(sizes, errors, strict=True):
            width = next(width for width in block.searched if width.axis == axis)
            chosen = width.keep(block, scores.widths[width.score][i], int(size))
            narrow = without(model)
            narrow[i] = chosen
            assert error == pytest.approx(
                distance(metric, full, ends(model, narrow, x), x), rel=1e-3, abs=1e-6
            )


@pytest.mark.parametrize("estimator", ["minitron", "minitron-pre"])
@torch.no_grad()
def test_widths_equal_the_formulas(parent, tmp_path, estimator):
    scores = run(parent, tmp_path, estimator=estimator)
    model, x = load_model(parent).eval(), samples(6)
    hidden = 0
    for i, block in enumerate(model.blocks):
        stream = model.run_blocks(model.embed(x), None, 0, i)
        inputs = block.norm(stream)
        b = parent.architecture.blocks[i]
        hidden = hidden + inputs.abs().mean(1).square().sum(0).sqrt()
        if b.kind == "mlp":
            activation = block.up_proj(inputs)
            activation = activation if estimator == "minitron-pre" else torch.relu(activation) ** 2
            assert np.allclose(
                scores.widths["intermediate"][i],
                activation.abs().mean(1).square().sum(0).sqrt(),
                rtol=1e-4,
            )
        elif b.kind == "mamba":
            rows = block.in_proj.weight[b.inner : 2 * b.inner]
            want = (
                (inputs @ rows.t()).abs().mean(1).square().sum(0).sqrt().view(b.heads, b.head_dim)
            )
            assert np.allclose(scores.widths["head_channels"][i], want, rtol=1e-4)
        else:
            seen = []
            handle = block.o_proj.register_forward_pre_hook(
                lambda m, inputs, seen=seen: seen.append(inputs[0])
            )
            block.branch(stream, Context())
            handle.remove()
            norms = seen[0].unflatten(-1, (b.q_heads, -1)).norm(dim=-1)
            assert np.allclose(
                scores.widths["q_heads"][i], norms.mean(1).square().sum(0).sqrt(), rtol=1e-4
            )
    assert np.allclose(scores.hidden, hidden, rtol=1e-4)


@torch.no_grad()
def test_iterative_equals_brute_force(parent, tmp_path):
    scores = run(parent, tmp_path, iterative=4)
    model, x = load_model(parent).eval(), samples(3)
    full = ends(model, without(model), x)
    order = []
    for _ in range(4):
        damage = {
            i: distance("mse", full, ends(model, without(model, i, *order), x), x)
            for i in range(8)
            if i not in order
        }
        order.append(min(damage, key=damage.get))
    assert scores.meta["removal_order"] == order
    assert (scores.blocks == run(parent, tmp_path / "single").blocks).all()
    assert "removal_order" not in run(parent, tmp_path / "single").meta


def test_more_samples_for_blocks_than_for_widths(parent, tmp_path):
    wide = run(parent, tmp_path / "a", samples=2, block_samples=6, curves=False)
    assert wide.blocks == pytest.approx(
        run(parent, tmp_path / "b", block_samples=6, curves=False).blocks, rel=1e-5
    )
    assert wide.meta["width_samples"] == 2


@pytest.mark.parametrize(
    "options", [{}, {"curves": False}, {"iterative": 3}, {"samples": 2, "block_samples": 5}]
)
def test_work_is_what_is_advanced_and_each_weight_is_read_once(
    parent, tmp_path, options, monkeypatch
):
    read = []
    usual = BlockReader._read
    monkeypatch.setattr(
        BlockReader,
        "_read",
        lambda self, index, tensors: (read.append(index), usual(self, index, tensors))[1],
    )
    settings = ScoreSettings(**{"samples": 6, "block_samples": 3, "batch": 2, **options})
    rows = []
    score(parent, text(), settings, device=CPU, partial=tmp_path, progress=Watched(rows.append))
    assert sum(rows) == work(settings, parent.architecture, 8)
    if not settings.iterative:
        assert read == list(range(8))
    if options == {"curves": False}:
        assert sum(rows) == 6 * 8 + 3 * 8 * 7 // 2


def test_a_stopped_scoring_resumes_bit_equal(parent, tmp_path, monkeypatch):
    """Stopped after each block in turn; blocks that were finished are not computed again."""
    from minipuzzle.importance import state, stream

    monkeypatch.setattr(state, "SAVING_SHARE", 1.0)
    options = {"iterative": 2}
    whole = run(parent, tmp_path / "whole", **options)
    usual = stream._Run._visit
    visits = []

    def visit(self, streams, index, module, whole):
        if len(visits) % 2:
            visits.append(None)
            raise KeyboardInterrupt
        visits.append(index)
        return usual(self, streams, index, module, whole)

    monkeypatch.setattr(stream._Run, "_visit", visit)
    for _ in range(20):
        try:
            again = run(parent, tmp_path / "broken", **options)
            break
        except KeyboardInterrupt:
            assert len(list((tmp_path / "broken" / "partial").iterdir())) == 1
    assert [v for v in visits if v is not None] == [
        *range(8),
        *(i for i in range(8) if i != whole.meta["removal_order"][0]),
    ]
    same(whole, again)


def same(whole, again, rel=0.0):
    assert again.blocks == pytest.approx(whole.blocks, rel=rel, abs=0)
    assert again.hidden == pytest.approx(whole.hidden, rel=rel, abs=0)
    assert set(again.widths) == set(whole.widths)
    for name, found in whole.widths.items():
        for i, want in found.items():
            assert np.allclose(again.widths[name][i], want, rtol=rel, atol=0)
    for i, axes in whole.curves.items():
        for axis, (sizes, errors) in axes.items():
            assert (again.curves[i][axis][0] == sizes).all()
            assert again.curves[i][axis][1] == pytest.approx(errors, rel=rel, abs=0)


def test_state_of_other_inputs_is_not_taken(parent, tmp_path, monkeypatch):
    from minipuzzle.importance import state, stream

    monkeypatch.setattr(state, "SAVING_SHARE", 1.0)
    monkeypatch.setattr(
        stream, "variant_errors", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run(parent, tmp_path)
    monkeypatch.undo()
    same(run(parent, tmp_path / "fresh", seed=1), run(parent, tmp_path, seed=1))


@pytest.mark.parametrize(
    "data", [b"", b"x" * 7, b"\xff" * 500, b"\2\0\0\0\0\0\0\0{}", b"\2\0\0\0\0\0\0\0[]"]
)
def test_a_damaged_state_is_refused(data, parent, tmp_path, monkeypatch):
    from minipuzzle.importance import state, stream

    monkeypatch.setattr(state, "SAVING_SHARE", 1.0)
    monkeypatch.setattr(
        stream, "variant_errors", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run(parent, tmp_path)
    monkeypatch.undo()
    saved = list((tmp_path / "partial").rglob("*.safetensors"))
    assert saved
    for file in saved:
        file.write_bytes(data)
    with pytest.raises(UserError, match="no saved scoring") as caught:
        run(parent, tmp_path)
    assert "Delete it" in caught.value.next


RANKS = """
import sys, json
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_stream import text, CPU
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.importance import score
from minipuzzle.settings import ScoreSettings
settings = ScoreSettings(samples=7, block_samples=3, batch=1)
partial = Path({folder!r}) / "partial"
scores = score(Checkpoint.open(Path({path!r})), text(), settings, device=CPU, partial=partial)
import os
scores.save(Path({folder!r}) / ("scores" + os.environ.get("RANK", "")))
"""


def test_two_processes_give_the_scores_of_one(parent, tmp_path):
    file = tmp_path / "ranks.py"
    file.write_text(
        RANKS.format(tests=os.path.dirname(__file__), path=str(parent.path), folder=str(tmp_path))
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    launched = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(file),
    ]
    for command in ([sys.executable, str(file)], launched):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
    one = Scores.load(tmp_path / "scores")
    for rank in "01":
        same(one, Scores.load(tmp_path / f"scores{rank}"), rel=1e-12)


def test_torchrun_of_the_command_writes_once(tmp_path):
    """The command under torchrun: one run directory, one line in its list of commands."""
    save(shaken(tiny()), tmp_path / "model")
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "run"
    options = [
        "--run",
        folder,
        "--data",
        TEXT,
        "--samples",
        4,
        "--block-samples",
        2,
        "--length",
        64,
        "--device",
        "cpu",
        "--json",
    ]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "minipuzzle",
        "score",
        str(tmp_path / "model"),
        *map(str, options),
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["meta"]["width_samples"] == 4
    assert len(json.loads((folder / "commands.json").read_text())["commands"]) == 1
    parent = Checkpoint.open(tmp_path / "model").fingerprint
    assert Scores.load(folder / "scores.safetensors").meta["parent"] == parent
    assert not (folder / "scores.partial").exists()


def test_peak_has_the_terms_a_pencil_gives(parent):
    settings = ScoreSettings(samples=6, block_samples=3, batch=2)
    peak = plan_peak(parent, settings, samples=6, shared=3, length=LENGTH, device=CPU, fast=False)
    blocks = parent.architecture.blocks
    count = sum(1 + len(narrowings(b)) for b in blocks)
    row = LENGTH * 32 * 4
    assert peak.device["activations"] <= (6 + 3 * count) * row
    assert peak.device.terms.get("two blocks", 0) <= max(
        block_bytes(a, torch.float32) + block_bytes(b, torch.float32) for a, b in pairwise(blocks)
    )
    assert block_bytes(blocks[1], torch.float32) == 4 * (32 + 2 * 32 * 64)
    assert "activations" in str(peak)
    assert "GiB" in str(peak)


def test_working_set_is_what_the_forward_allocates():
    """An FFN of f channels in FP32 holds norm(h), relu and its square at once; the meta run finds
    just that.
    """
    block = tiny().blocks[1]
    tokens, d, f = 3 * 20, 32, 64
    got = forward_bytes(block, batch=3, length=20, dtype=torch.float32, fast=False)
    assert got == 4 * tokens * (d + 2 * f)
    mamba = tiny().blocks[0]
    assert forward_bytes(mamba, batch=3, length=20, dtype=torch.bfloat16, fast=True) > 0
    twice = forward_bytes(mamba, batch=6, length=20, dtype=torch.float32, fast=False)
    once = forward_bytes(mamba, batch=3, length=20, dtype=torch.float32, fast=False)
    assert twice == pytest.approx(2 * once, rel=0.01)


def test_what_does_not_fit_is_refused_before_it_is_read(parent, tmp_path, monkeypatch):
    monkeypatch.setattr(peak_module, "available_bytes", lambda: 0)
    monkeypatch.setattr(BlockReader, "blocks", lambda *a: pytest.fail("read"))
    with pytest.raises(UserError, match="does not fit") as error:
        run(parent, tmp_path)
    assert "score.block_samples" in error.value.next
    assert "activations" in error.value.got
    monkeypatch.undo()
    assert peak_module.available_bytes() > 1 << 20
    peak = plan_peak(
        parent, ScoreSettings(), samples=6, shared=3, length=LENGTH, device=CPU, fast=False
    )
    check_peak(peak, CPU)


def test_nan_weights_are_refused(tmp_path):
    model = shaken(tiny(vocab=VOCAB))
    with torch.no_grad():
        model.blocks[4].up_proj.weight[3, 3] = float("nan")
    broken = Checkpoint.open(save(model, tmp_path / "broken", tokenizer=False))
    with pytest.raises(UserError, match="NaN"):
        run(broken, tmp_path)


def test_bf16_checkpoint_reads_the_same_by_pieces(parent, tmp_path):
    model = shaken(tiny(vocab=VOCAB)).to(torch.bfloat16)
    stored = Checkpoint.open(save(model, tmp_path / "bf16", tokenizer=False))
    reader = BlockReader(stored, device=CPU, dtype=torch.float32)
    for index, module in reader.blocks(range(7)):
        for name, value in module.named_parameters():
            assert (value == stored.tensor(f"blocks.{index}.{name}").float()).all()
    assert all(p.numel() == 0 for p in module.parameters())
