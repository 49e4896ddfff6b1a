"""The optimiser's one pass: steps against PyTorch's AdamW, and copies that change nothing."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import shaken, tiny
from test_distill import text_blocks

from minipuzzle.kernels.adamw import Betas, Stepped, plain_adamw
from minipuzzle.settings import Training
from minipuzzle.training import captured, next_token
from minipuzzle.training.adamw import AdamW, keep_copies
from minipuzzle.training.captured import Backward
from minipuzzle.training.optimizers import make_optimizer, ready_step
from minipuzzle.training.prepare import unprepare
from minipuzzle.training.stages import stages

SHARED = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}


def groups(parameters):
    return [
        {"params": parameters[:2], "weight_decay": 0.1},
        {"params": parameters[2:], "weight_decay": 0.0, "betas": (0.8, 0.99), "eps": 1e-6},
    ]


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*s).to(dtype)) for s in ((3, 5), (2, 4, 7), (9,))]


def test_steps_are_pytorchs_to_the_last_bit():
    """Where it steps tensor by tensor, at gradients that were scaled before."""
    ours, theirs = parameters(), parameters()
    ours_step = AdamW(groups(ours), **SHARED)
    theirs_step = torch.optim.AdamW(groups(theirs), **SHARED, foreach=False)
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            torch.manual_seed(step)
            gradient = torch.randn(a.shape) * 30
            # one has no gradient in its first steps, so that its moments are younger
            a.grad, b.grad = (
                (None, None) if a.ndim == 1 and step < 2 else (gradient, gradient * 0.3)
            )
        ours_step.step(scale=0.3)
        theirs_step.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        for key in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(
                ours_step.state[a][key], theirs_step.state[b][key], rtol=0, atol=0
            )


SHAPES = (8 * 1024 * 2 + 5,), (96, 100), (7,), (2, 4, 64), (1,)


def kernel_steps(step, device="cpu"):
    """(weights, moments, copies) after steps of ``step`` on tensors of a kind each: BF16 and FP32
    gradients, with and without copies, of sizes around the kernel's pieces, a gradient where no
    wide read may begin; and the weights of PyTorch's AdamW in float64 at the same gradients.
    """
    weights = [torch.randn(s, generator=seeded(n)).mul_(0.02) for n, s in enumerate(SHAPES)]
    wide = [torch.nn.Parameter(w.double()) for w in weights]
    oracle = torch.optim.AdamW(
        [{"params": wide[::2], "weight_decay": 0.1}, {"params": wide[1::2], "weight_decay": 0.0}],
        **SHARED,
    )
    held = [[w.to(device), *(torch.zeros(w.shape, device=device) for _ in "mv")] for w in weights]
    copies = [
        torch.zeros(w.shape, dtype=torch.bfloat16, device=device) if n < 2 else None
        for n, w in enumerate(weights)
    ]
    for count in range(1, 6):
        tensors = []
        for n, (weight, first, second) in enumerate(held):
            gradient = torch.randn(weight.shape, generator=seeded(10 * count + n)).mul_(50)
            gradient = gradient.bfloat16() if n % 3 == 0 else gradient
            wide[n].grad = gradient.double() * 0.02
            room = torch.zeros(gradient.numel() + 1, dtype=gradient.dtype, device=device)
            place = room[n == 1 :][: gradient.numel()].view(gradient.shape)
            tensors.append(
                Stepped(
                    weight=weight,
                    gradient=place.copy_(gradient),
                    first=first,
                    second=second,
                    copy=copies[n],
                    keep=1 - 0.01 * (0.1 if n % 2 == 0 else 0.0),
                    rate=0.01 / (1 - 0.9**count),
                    root=math.sqrt(1 - 0.95**count),
                )
            )
        step(tensors, 0.02, Betas(first=0.9, second=0.95, eps=1e-8))
        oracle.step()
    return held, copies, [w.detach() for w in wide]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def check_kernel(step, device, ulps):
    """Five steps are float64's to what FP32 holds; copies are the weights, to ``ulps`` of BF16."""
    held, copies, wide = kernel_steps(step, device)
    for (weight, *_), want in zip(held, wide, strict=True):
        assert (weight.cpu() - want).abs().max() < 1e-7
    for (weight, *_), copy in zip(held, copies, strict=True):
        if copy is not None:
            apart = copy.view(torch.int16).int() - weight.bfloat16().view(torch.int16).int()
            assert apart.abs().max() <= ulps


def at_once(prepared):
    return lambda tensors, scale, betas: prepared(tensors, betas)(scale)


def test_the_plain_step():
    check_kernel(plain_adamw, "cpu", 0)


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install triton"
)
def test_the_kernel_interpreted():
    """On a CPU, in a process of its own: Triton reads the variable once. Its interpreter cuts BF16
    off where a GPU rounds.
    """
    code = "import test_adamw; from minipuzzle.kernels.adamw_cuda import prepared;"
    code += " test_adamw.check_kernel(test_adamw.at_once(prepared), 'cpu', 1)"
    env = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    env["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), *sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def trained(copies, micro, monkeypatch, steps=4):
    """(losses, dtypes of the matrices' gradients, model) of steps of 4 blocks whose products are in
    BF16, as on a GPU.
    """
    monkeypatch.setattr(
        captured, "mixed_precision", lambda device: torch.autocast("cpu", dtype=torch.bfloat16)
    )
    settings = Training(tokens=1, batch=4, micro_batch=micro, learning_rate=1e-2)
    model = shaken(tiny("M-*", hidden=64, heads=16, head_dim=8, vocab=512))
    optimizer = make_optimizer(model, settings)
    kept = {}
    if copies:
        kept = keep_copies(model, optimizer, stages(text_blocks(8, 32), settings))
        assert {p.dtype for p in kept.values()} == {torch.bfloat16}
    backward = Backward(model, next_token, captures=False, adds=micro > 0, copies=kept)
    losses, dtypes = [], set()
    tokens = torch.randint(0, 512, (steps, 4, 32), generator=torch.Generator().manual_seed(0))
    for batch in tokens:
        for part in batch.split(micro or 4):
            losses.append(backward(part, None).total.item())
        dtypes |= {parameter.grad.dtype for parameter in kept}
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        ready_step(optimizer, gradients)(0.01)
        optimizer.zero_grad(set_to_none=True)
        for parameter, copy in kept.items():
            assert parameter.dtype == torch.float32
            assert torch.equal(copy, parameter.bfloat16())
    return losses, dtypes, model


@pytest.mark.parametrize("micro", [0, 1])
def test_copies_change_nothing(micro, monkeypatch):
    """Autocast would make the same BF16 weights, and the same gradients from them, which it widens:
    losses and weights after steps are equal to the last bit, also where gradients are summed.
    """
    plain, _, without = trained(False, micro, monkeypatch)
    losses, dtypes, model = trained(True, micro, monkeypatch)
    assert dtypes == {torch.float32 if micro else torch.bfloat16}
    assert losses == plain
    assert losses[-1] < losses[0]
    for (name, a), b in zip(model.named_parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b), name
    unprepare(model)
    assert {p.grad_dtype for p in model.parameters()} == {torch.float32}


def test_which_matrices_have_copies():
    """Those of blocks: not embedding and head, norms, what a recurrence is made of, routers; nor of
    what is not trained, nor for another optimiser.
    """
    settings = Training(tokens=1, batch=4)
    model = shaken(tiny("M-*E", hidden=64, heads=16, head_dim=8, vocab=512))
    model.blocks[1].requires_grad_(False)
    optimizer = make_optimizer(model, settings)
    turns = stages(text_blocks(8, 32), settings)
    kept = keep_copies(model, optimizer, turns)
    names = {name for name, p in model.named_parameters() if p in kept}
    assert names == {
        name
        for name in model.architecture.matrices
        if name.startswith(("blocks.0", "blocks.2", "blocks.3"))
    }
    assert not [n for n in names if "router" in n or "conv" in n or "norm" in n]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    assert keep_copies(model, sgd, turns) == {}
