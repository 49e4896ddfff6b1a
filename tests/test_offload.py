"""FP32 weights, gradients and moments in the CPU's memory: by FSDP2, in one process too."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp
from conftest import save, shaken, tiny
from helpers import TEXT, run
from safetensors.torch import load_file
from test_adamw import SHARED, groups, parameters
from test_experts_training import RECIPE
from test_training_cost import M4, beyond, student_of_8b
from torch.distributed.fsdp import CPUOffloadPolicy
from world import CPU, distil

from minipuzzle.arch import Architecture
from minipuzzle.cost.distill_plan import DistillPlan
from minipuzzle.errors import UserError
from minipuzzle.kinds import FeedForward, Mamba2
from minipuzzle.memory.training import MASTERS, offloaded_peak, saved_bytes
from minipuzzle.ranks import alone, ranks
from minipuzzle.report.plan import distill_plan_view
from minipuzzle.runs.checks import check_adapter
from minipuzzle.settings import AdapterSettings, DistillSettings, Training
from minipuzzle.training.adamw import AdamW, keep_copies
from minipuzzle.training.optimizers import make_optimizer, require_optimizer
from minipuzzle.training.prepare import prepare


def test_one_process_trains_as_without(tmp_path, monkeypatch):
    sizes = {"hidden": 16, "heads": 16, "head_dim": 4, "vocab": 61}
    save(shaken(tiny("M-*E", **sizes), 0), tmp_path / "student", tokenizer=False)
    save(shaken(tiny("M-*-", **sizes), 1), tmp_path / "teacher", tokenizer=False)
    policies, own = [], torch.distributed.fsdp.fully_shard

    def watched(module, **options):
        policies.append(options["offload_policy"])
        return own(module, **options)

    monkeypatch.setattr(torch.distributed.fsdp, "fully_shard", watched)
    distil(tmp_path, alone(CPU), "whole")
    assert not policies
    with ranks(CPU, sharded=True) as group:
        assert group.world == 1
        distil(tmp_path, group, "away", offload=True)
    assert len(policies) == 6  # blocks, embedding, root: of the student alone
    assert all(policy == CPUOffloadPolicy(pin_memory=False) for policy in policies)
    assert not torch.distributed.is_initialized()
    whole, away = (load_file(tmp_path / f"{run}.safetensors") for run in ("whole", "away"))
    assert max((whole[name] - away[name]).abs().max().item() for name in whole) < 2e-5
    losses = [
        [float(row.split(",")[2]) for row in (tmp_path / run / "log.csv").read_text().split()[1:]]
        for run in ("whole", "away")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_fused_step_is_adamws():
    """In float64, at gradients that were scaled before, by another number in each step: AdamW would
    not see one that stays. One has no gradient in its first steps.
    """
    ours, theirs = parameters(), parameters(torch.float64)
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a.data)
    mine, oracle = (
        AdamW(groups(ours), fused=True, **SHARED),
        torch.optim.AdamW(groups(theirs), **SHARED),
    )
    for step, scale in enumerate((0.3, 3.0, 0.02, 0.3, 7.0, 1.0)):
        for a, b in zip(ours, theirs, strict=True):
            torch.manual_seed(step)
            gradient = torch.randn(a.shape) * 30
            young = a.ndim == 1 and step < 2
            a.grad, b.grad = (None, None) if young else (gradient, gradient.double() * scale)
        mine.step(scale=scale)
        oracle.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
        assert mine.state[a]["step"] == oracle.state[b]["step"]


def test_no_copies_are_kept_of_what_is_away():
    model = shaken(tiny("M-", hidden=16, heads=16, head_dim=4, vocab=61))
    for away in (False, True):
        optimizer = make_optimizer(model, Training(offload=away, learning_rate=1e-3))
        assert bool(keep_copies(model, optimizer, [])) is not away


def test_bytes_by_pencil(monkeypatch):
    # the loss's are the worst of so few
    monkeypatch.setattr("minipuzzle.memory.training.WORKSPACES", 0)
    monkeypatch.setattr("minipuzzle.memory.training.loss_bytes", lambda *sizes, **kinds: 0)
    ff = FeedForward(hidden=8, intermediate=16)
    mamba = Mamba2(hidden=8, heads=4, head_dim=4, groups=2, state=8)
    model = Architecture(vocab_size=10, hidden=8, blocks=(ff, mamba) * 10)
    kept = 1000 * 10 * (saved_bytes(ff) + saved_bytes(mamba))
    # around the final norm; of the head its gradient and its weights in BF16; two blocks in BF16
    rest = 1000 * 8 * 6 + 2 * 80 + 2 * 80 + 4 * mamba.parameters + kept
    rest += 2000 * mamba.backward_values()
    # of the largest block: a whole gradient in BF16 and FP32; FP32 and BF16 up, FP32 down
    for gpus in (1, 2):
        ways = 6 * mamba.parameters + 10 * mamba.parameters // gpus
        assert beyond(model, offload=True, gpus=gpus) == rest + ways
    assert beyond(model, offload=True, averaged=True) == beyond(model, offload=True)
    # 4 bytes a number, each tensor up to a power of two: 128, 8 x 68 -> 1024 numbers ...
    blocks = {"norm": 8, "up": 128, "down": 128}
    assert ff.parameters == sum(blocks.values())
    bare = Architecture(vocab_size=10, hidden=8, blocks=(ff,))
    assert offloaded_peak(bare)[MASTERS] == 4 * (128 + 128 + 8 + 8 + 128 + 128)  # 80 numbers: 128
    assert offloaded_peak(bare, gpus=2)[MASTERS] == 4 * (64 + 64 + 4 + 4 + 64 + 64)
    held = offloaded_peak(bare, averaged=True)
    assert held.total == 2 * held[MASTERS] + 12 * bare.parameters


def test_a_plan_says_what_lies_where(capsys):
    teacher, student = student_of_8b(*M4)
    given = {"teacher": teacher, "student": student, "tokens": 10**9, "length": 8192}
    plans = [DistillPlan(**given, offload=away) for away in (False, True)]
    near, away = (plan.peak(1, checkpointing=False) for plan in plans)
    count = student.parameters
    # masters and moments; BF16 copies and gradients of blocks, less what one takes on its way
    assert 12 * count < near.total - away.total < 14 * count
    assert not any(name in away.terms for name in (MASTERS, "Adam moments, FP32"))
    assert [row.cpu_bytes for row in plans[0].rows] == [None] * len(plans[0].rows)
    first = plans[1].rows[0]
    assert 16 * count < first.cpu_bytes < 24 * count
    stay = (student.vocab_size + 1) * student.hidden
    assert plans[1].over_pcie(1) == (8 * count - 4 * stay, 4 * count)
    assert "cpu_terms" in plans[1].json()
    assert "cpu_terms" not in plans[0].json()
    from rich.console import Console

    Console(width=200).print(distill_plan_view(plans[1]))
    said = capsys.readouterr().out
    assert "CPU memory for each" in said
    assert "neither that nor the step on the CPU is counted" in said


def test_what_does_not_go_with_it_is_refused():
    away = Training(offload=True)
    with pytest.raises(UserError, match="moments are FP32"):
        require_optimizer(Training(offload=True, optimizer="adamw-8bit"), 1)
    with pytest.raises(UserError, match="little to offload"):
        check_adapter(away, AdapterSettings(kind="lora"), [])
    with pytest.raises(UserError, match="does not write"):
        DistillSettings(on_policy=0.5, prompts="p", training=away)
    model = shaken(tiny("M-", vocab=61))
    said = prepare(model, away, 64)
    assert "of CPU memory for each process (estimate)" in said
    assert f"{torch.get_num_threads()} threads step (OMP_NUM_THREADS)" in said
    assert "CPU memory" not in prepare(model, Training(), 64)


def test_pretrain_with_experts(tmp_path, monkeypatch):
    """By the command; what corrects a router's choice stays where the model computes."""
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE.replace("TEXT", str(TEXT)).replace(
        "tokens: 6000", "tokens: 1536, balance: 0.01"
    )
    losses = []
    for name, more in (("whole", ""), ("away", ", offload: true")):
        Path(f"{name}.yaml").write_text(recipe.replace("batch: 8", f"batch: 8{more}"))
        run("pretrain", f"{name}.yaml", "--run", name)
        losses.append(json.loads(Path(name, "model/training.json").read_text())["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    whole, away = (load_file(f"{name}/model/model.safetensors") for name in ("whole", "away"))
    assert any("correction" in name and value.any() for name, value in away.items())
    for name, value in whole.items():
        torch.testing.assert_close(away[name], value, rtol=1e-2, atol=1e-4)  # BF16
