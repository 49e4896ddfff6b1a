"""What is measured is measured in one precision: parent, candidates and teacher alike, whatever the
number of GPUs.
"""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from test_left_behind import blocks

import minipuzzle as mp
from minipuzzle.arch import Selection
from minipuzzle.metrics import answers, measure, tokens_per_second
from minipuzzle.model import HybridLM, frozen_model, mixed_precision
from minipuzzle.nas.rank import Quality
from minipuzzle.ranks import Ranks
from minipuzzle.rundir import RunDir
from minipuzzle.runs.evaluations import Evaluations
from minipuzzle.runs.parent import masked_qualities
from minipuzzle.training.parallel import shard

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def as_on_cuda(monkeypatch):
    """BF16 products where CUDA would have them."""
    monkeypatch.setattr(
        "minipuzzle.metrics.mixed_precision",
        lambda device: torch.autocast("cpu", dtype=torch.bfloat16),
    )


def test_bf16_is_cudas_and_fp32_a_cpus(monkeypatch):
    with mixed_precision(CPU):
        assert not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr("torch.autocast", lambda *words, **options: (words, options))
    assert mixed_precision(CUDA) == (("cuda",), {"dtype": torch.bfloat16})


@pytest.mark.usefixtures("as_on_cuda")
def test_parent_and_candidates_are_measured_alike():
    """The search ran in FP32 on one GPU (51 TFLOP/s of 798), and in BF16 under torchrun."""
    model, text = shaken(tiny("M-M*-")), blocks()
    with torch.no_grad():
        exact = torch.log_softmax(model(torch.from_numpy(text.tokens.astype(np.int64))), -1)
    loss = (
        -exact[:, :-1]
        .gather(2, torch.from_numpy(text.tokens[:, 1:].astype(np.int64))[..., None])
        .mean()
        .item()
    )
    found = measure(model, text, batch=2)
    assert found.loss != pytest.approx(loss, rel=1e-7), "not in BF16"
    assert found.loss == pytest.approx(loss, rel=5e-3)
    said = answers(model, text, batch=2)
    # in one precision nothing differs, logits and what follows are FP32
    for teacher in (said, deepcopy(model), model):
        itself = measure(model, text, batch=2, teacher=teacher)
        assert (itself.agreement, itself.loss) == (1.0, found.loss)
        assert abs(itself.kl) < 1e-6
    everything = Selection.everything(model.architecture)
    (masked,) = masked_qualities(model, [everything], text, said, batch=2)
    assert masked.loss == pytest.approx(found.loss, rel=1e-6)


def test_speed_is_that_of_what_is_measured(monkeypatch):
    entered = []
    monkeypatch.setattr(
        "minipuzzle.metrics.mixed_precision",
        lambda device: entered.append(device) or mixed_precision(device),
    )
    assert tokens_per_second(shaken(tiny("M")), torch.zeros(1, 8, dtype=torch.int64), repeats=1) > 0
    assert entered == [CPU, CPU]


def test_what_is_measured_is_held_alike_whole_and_in_shards(tmp_path, monkeypatch):
    """On CUDA: matrices in BF16, the rest in FP32, no gradients. Under torchrun all was BF16, on
    one GPU all FP32.
    """
    job = mp.load(
        save(shaken(tiny()), tmp_path / "model", tokenizer=False),
        run=tmp_path / "run",
        device="cpu",
    )
    assert job.frozen_parent(Ranks(rank=0, world=1, device=CPU)) is job.parent_model
    job.device = CUDA
    held = []
    monkeypatch.setattr(
        "minipuzzle.runs.job.load_sharded", lambda model, *rest: held.append(model) or model
    )
    monkeypatch.setattr(
        "minipuzzle.runs.job.load_frozen",
        lambda checkpoint, device, kernels: held.append(
            frozen_model(checkpoint.architecture, device, kernels=kernels, where="meta")
        ),
    )
    for world in (1, 2):
        job.load_frozen(job.parent, Ranks(rank=0, world=world, device=CUDA))
    one, two = (
        {name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()} for model in held
    )
    assert one == two
    shapes = {name: p.ndim for name, p in held[0].named_parameters()}
    assert one == {
        name: (torch.bfloat16 if n == 2 else torch.float32, False) for name, n in shapes.items()
    }


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_model_is_gathered_as_it_is_held(trained, monkeypatch):
    policies = []
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *_, **__: None)
    monkeypatch.setattr(
        "torch.distributed.fsdp.fully_shard",
        lambda module, mp_policy, **_: policies.append(mp_policy),
    )
    monkeypatch.setattr("torch.distributed.fsdp.register_fsdp_forward_method", lambda *_: None)
    model = HybridLM(tiny(), device="meta").requires_grad_(trained)
    shard(model, Ranks(rank=0, world=2, device=CUDA))
    assert {policy.param_dtype for policy in policies} == {torch.bfloat16 if trained else None}
    assert len(policies) == len(model.blocks) + 2


def test_a_search_does_not_go_on_in_another_precision(tmp_path):
    where = {device: SimpleNamespace(run=RunDir(tmp_path), device=device) for device in (CPU, CUDA)}
    measured, asked = Quality(0.5, 0.5, 1.0, 0.25), [("c001", None)]
    assert Evaluations(where[CPU], "key", lambda selections: [measured])(asked) == [measured]

    def of(device, key):
        return Evaluations(where[device], key, lambda selections: pytest.fail("measured again"))

    assert of(CPU, "key")(asked) == [measured]
    assert of(CPU, "key").found == {"c001": measured}
    assert of(CUDA, "key").found == {}
    assert of(CPU, "another").found == {}
