"""AdamW with moments in 8 bits, and with BF16 matrices: steps, bytes, saved states, processes."""

import os
import signal
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import save, shaken, tiny
from launched import together
from safetensors.torch import load_file, save_file
from test_distill import text_blocks
from test_training_cost import M4, student_of_8b

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose
from minipuzzle.memory.optimizers import Held, block_of, held_by_block, state_bytes_each
from minipuzzle.memory.training import training_peak
from minipuzzle.model import HybridLM, load_model
from minipuzzle.ranks import alone, ranks
from minipuzzle.records import load_log
from minipuzzle.runs.checks import check_adapter, check_training
from minipuzzle.settings import AdapterSettings, Training
from minipuzzle.training import next_token, train
from minipuzzle.training.checkpointing import list_states
from minipuzzle.training.optimizers import make_optimizer, narrow
from minipuzzle.training.parallel import gather, load_sharded

CPU = torch.device("cpu")
STEP = 4 * 32
LEAN = ("adamw-8bit", "adamw-8bit-bf16")
SETTINGS = Training(tokens=STEP * 6, learning_rate=3e-3, batch=4, save_every=1e9)


def model(seed=0):
    """Rows of 64 and 128 numbers, so that most matrices are in 8 bits; the others are not."""
    return shaken(tiny("M-*", hidden=64, heads=16, head_dim=8, vocab=512), seed)


def settings(optimizer, **more):
    return replace(SETTINGS, optimizer=optimizer, **more)


def test_which_moments_are_in_8_bits():
    assert block_of((32, 4096)) == block_of((16, 4, 64)) == 256
    assert block_of((64, 192)) == 64
    assert block_of((64, 384)) == 128
    assert block_of((4096,)) == block_of((4096, 1, 4)) == 0  # scales do not cross rows
    assert block_of((31, 128)) == 0  # fewer than 4,096 numbers
    assert block_of((64, 65)) == 0


@pytest.mark.parametrize("optimizer", ["adamw", *LEAN])
def test_the_bytes_are_those_of_the_tensors(optimizer):
    """What the estimate says against what weights, gradients and states of a step hold."""
    made, wanted = model(), settings(optimizer)
    narrow(made, wanted)
    stepping = make_optimizer(made, wanted)
    next_token(made, torch.randint(0, 512, (2, 32)), None).total.backward()
    stepping.step()
    moments = 0
    for state in stepping.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            held = state[key]
            parts = [held.codes, held.scale, held.qmap] if hasattr(held, "codes") else [held]
            moments += sum(part.numel() * part.element_size() for part in parts)
    told = sum(held_by_block(made.architecture, optimizer), Held())
    assert told.weights == sum(p.numel() * p.element_size() for p in made.parameters())
    assert told.gradients == sum(p.grad.numel() * p.grad.element_size() for p in made.parameters())
    assert told.moments == moments
    each = state_bytes_each(made.architecture, optimizer)
    assert each == (told.weights + told.moments) / made.architecture.parameters
    terms = training_peak(made.architecture, 64, optimizer=optimizer).terms
    assert told.weights in terms.values()
    assert told.moments in terms.values()


def test_8b_to_4b_fits_80_gb():
    """The shape of docs/decisions/memory-of-a-step.md at 8,192 tokens, all activations kept."""
    teacher, student = student_of_8b(*M4)
    told = [
        training_peak(student, 8192, teacher=teacher, optimizer=optimizer).total / 2**30
        for optimizer in ("adamw", *LEAN)
    ]
    print("GiB:", [f"{size:.1f}" for size in told])
    assert told[0] > 79.1 > told[2]
    each = [state_bytes_each(student, optimizer) for optimizer in LEAN]
    assert each == pytest.approx([4 + 2.04, 2 + 2.04], abs=0.03)


@pytest.mark.parametrize("optimizer", LEAN)
def test_a_step_is_adamws_but_for_its_rounding(optimizer):
    """The first step of plain AdamW, and what 8 bits and BF16 may change of it."""
    ends, start = [], {name: p.detach() for name, p in model().named_parameters()}
    for name in ("adamw", optimizer):
        made, wanted = model(), settings(name)
        before = [p.detach().clone() for p in made.parameters()]
        narrow(made, wanted)
        stepping = make_optimizer(made, wanted)
        torch.manual_seed(0)
        for p in made.parameters():
            p.grad = torch.randn(p.shape).to(p.dtype)
        stepping.step()
        pairs = zip(made.named_parameters(), before, strict=True)
        ends.append({name: (p.detach().float() - b) for (name, p), b in pairs})
        assert stepping.param_groups[0]["lr"] == 3e-3
    for name, want in ends[0].items():
        off = (ends[1][name] - want).abs()
        if name in model().architecture.matrices and optimizer.endswith("bf16"):
            end = (start[name] + want).abs()  # rounded up or down; narrowed before
            assert (off <= 2**-7 * end + 2**-8 * start[name].abs() + 1e-6).all(), name
        else:  # a first step is the rate whatever the gradient: both moments are rounded alike
            assert off.max() < 2e-5, name


def test_stochastic_rounding_keeps_steps_smaller_than_the_spacing():
    """A hundred steps of 1e-4 at numbers of 1, whose BF16 neighbours are 8e-3 apart."""
    made, wanted = model(), settings("adamw-8bit-bf16", learning_rate=1e-4, weight_decay=0.0)
    narrow(made, wanted)
    weight = made.head.weight
    weight.data.fill_(1.0)
    stepping = make_optimizer(made, wanted)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        stepping.step()
    assert weight.dtype == torch.bfloat16
    # spacing 2**-8 below 1: its standard deviation over 32,768 numbers is far below 1e-4
    assert weight.float().mean().item() == pytest.approx(0.99, abs=2e-4)
    assert len(weight.unique()) > 2


@pytest.mark.parametrize("optimizer", LEAN)
def test_a_resumed_run_is_the_whole_one(optimizer, tmp_path):
    wanted = settings(optimizer, average=0.5)
    runs = [model(), model()]
    train(runs[0], next_token, text_blocks(), wanted, tmp_path / "whole", identity="x")
    stopped = Stopped(at=3)
    with pytest.raises(SystemExit):
        train(runs[1], stopped, text_blocks(), wanted, tmp_path / "cut", identity="x")
    (state,) = list_states(tmp_path / "cut/state")
    kept = {k: v for file in state.glob("*.safetensors") for k, v in load_file(file).items()}
    assert kept["exp_avg.head.weight"].dtype == torch.uint8
    assert kept["exp_avg.scale.head.weight"].dtype == torch.float32
    half = torch.bfloat16 if optimizer.endswith("bf16") else torch.float32
    assert kept["model.head.weight"].dtype == half
    again = model()
    train(again, next_token, text_blocks(), wanted, tmp_path / "cut", identity="x")
    for (name, a), b in zip(runs[0].named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    (whole,), (cut,) = (load_log(tmp_path / run / "log.csv") for run in ("whole", "cut"))
    assert {**whole, "seconds": 0} == {**cut, "seconds": 0}


class Stopped:
    """The objective, and SIGTERM in one step."""

    def __init__(self, at):
        self.left = at

    def __call__(self, *args):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return next_token(*args)


def in_two(folder):
    """A run in shards; a whole one, one that is stopped and goes on, one that one process ends."""
    with ranks(CPU) as group:
        for run in ("two", "resumed", "resumed", "moved"):
            checkpoint = Checkpoint.open(folder / "model")
            empty = HybridLM(checkpoint.architecture, device="meta", kernels=choose(CPU))
            made = load_sharded(empty, checkpoint, group).requires_grad_()
            first = run != "two" and not (folder / run).exists()
            group.together(lambda: None)
            objective = Stopped(at=3) if first else next_token
            with pytest.raises(SystemExit) if first else nullcontext():
                wanted = settings("adamw-8bit")
                train(made, objective, text(), wanted, folder / run, identity="x", ranks=group)
            whole = {name: gather(made, name) for name, _ in made.named_parameters()}
            if group.rank == 0:
                save_file(whole, folder / f"{run}.safetensors")


def text():
    """Another text than one block a process would let be the same by chance."""
    return text_blocks(blocks=24)


def test_two_processes_equal_one_and_go_on_from_each_other(tmp_path):
    save(model(), tmp_path / "model", tokenizer=False)
    wanted = settings("adamw-8bit")
    one = load_model(Checkpoint.open(tmp_path / "model"))
    start = {name: p.detach().clone() for name, p in one.named_parameters()}
    train(one, next_token, text(), wanted, tmp_path / "one", identity="x")
    together(2, in_two, tmp_path)
    moved = load_model(Checkpoint.open(tmp_path / "model"))
    train(moved, next_token, text(), wanted, tmp_path / "moved", identity="x")
    two = load_file(tmp_path / "two.safetensors")
    resumed = load_file(tmp_path / "resumed.safetensors")
    for name, p in one.named_parameters():
        far = (p - start[name]).norm()
        assert torch.equal(two[name], resumed[name]), name
        # codes of 8 bits turn what sums round otherwise into a step of a code: of a weight here and
        # there, more of them on some processors
        assert (two[name] - p).norm() < 5e-3 * far, name
        assert (dict(moved.named_parameters())[name] - p).norm() < 5e-3 * far, name


def test_what_is_refused(monkeypatch):
    models = [model().architecture]
    with pytest.raises(UserError, match="plain AdamW"):
        check_adapter(Training(optimizer="adamw-8bit"), AdapterSettings(kind="lora"), models)
    two = replace(alone(CPU), world=2)
    check_training(Training(optimizer="adamw-8bit"), 64, models, CPU, two)
    with pytest.raises(UserError, match="one process"):
        check_training(Training(optimizer="adamw-8bit-bf16"), 64, models, CPU, two)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"minipuzzle\[lean\]"):
        check_training(Training(optimizer="adamw-8bit"), 64, models, CPU, alone(CPU))
