"""Costs against the published tables, torch's own FLOP counter and a counted recurrence."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import shape_of, tiny
from test_architectures import GIB, MODELS, PAPER, fields
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minipuzzle.cost import flops_per_token
from minipuzzle.errors import UserError
from minipuzzle.families.nemotron_h import architecture
from minipuzzle.memory import BYTES, Workload, resident
from minipuzzle.model import init_model
from minipuzzle.space import shape_architecture


@pytest.mark.parametrize(
    ("name", "weights", "kv", "ssm", "conv"),
    [
        ("56B", 26.228, 19.073, 0.422, 0.006),
        ("47B", 21.789, 9.537, 0.352, 0.005),
        ("8B", 3.772, 7.629, 0.047, 0.001),
        ("4B", 2.090, 7.629, 0.041, 0.001),
    ],
)
def test_each_part_of_the_papers_memory(name, weights, kv, ssm, conv):
    used = resident(architecture(fields(name)), Workload(**PAPER))
    assert [
        used["weights"] / GIB,
        used["kv"] / GIB,
        used["ssm"] / GIB,
        used["conv"] / GIB,
    ] == pytest.approx([weights, kv, ssm, conv], abs=0.0006)
    assert used.total == used["weights"] + used["kv"] + used["ssm"] + used["conv"]


@pytest.mark.parametrize(
    ("changed", "gib"),
    [
        ({"context": 2**20}, 32.15),
        ({"kv": "bf16"}, 41.22),
        ({"kv": "fp4"}, 26.91),
        ({"state": "fp32"}, 32.04),
        ({"weights": "mxfp4"}, 33.04),
        ({"weights": "nvfp4"}, 34.41),
    ],
)
def test_other_readings_of_the_47b(changed, gib):
    assert resident(
        architecture(fields("47B")), Workload(**(PAPER | changed))
    ).total / GIB == pytest.approx(gib, abs=0.006)


@pytest.mark.parametrize(
    ("attention", "mlp", "mamba", "width", "gib"),
    [
        (5, 48, 46, 30720, 31.89),
        (5, 49, 45, 30720, 31.92),
        (5, 48, 45, 31744, 32.06),
        (6, 48, 45, 30720, 33.66),
        (6, 47, 45, 30720, 33.43),
        (6, 48, 44, 30720, 33.45),
    ],
)
def test_every_step_up_from_the_released_47b_is_over_the_budget(attention, mlp, mamba, width, gib):
    shape = shape_of(
        attention=attention, mlp=mlp, mamba=mamba, intermediate=width, heads=256, hidden=8192
    )
    used = resident(shape_architecture(architecture(fields("56B")), shape), Workload(**PAPER)).total
    assert used / GIB == pytest.approx(gib, abs=0.006)
    assert used > 31.7 * GIB


def test_bf16_weights_as_vllm_reports_them():
    for name, gib in {"12B-v2": 22.9, "9B-v2": 16.6}.items():
        assert resident(architecture(fields(name)), Workload(context=1))[
            "weights"
        ] / GIB == pytest.approx(gib, abs=0.05)


@pytest.mark.parametrize("dtype", BYTES)
def test_blocks_of_different_sizes_are_counted_one_by_one(dtype):
    small, large = tiny(), tiny(intermediate=37, heads=6, kv_heads=1)
    mixed = replace(small, blocks=(*small.blocks[:3], *large.blocks[3:]))
    used = resident(mixed, Workload(context=11, batch=3, weights=dtype, kv="fp8", state="fp32"))
    tensors = init_model(mixed, 0).state_dict()
    assert used["weights"] == np.ceil(sum(t.numel() for t in tensors.values()) * BYTES[dtype])
    assert used["kv"] == sum(
        11 * 3 * 2 * b.kv_heads * b.attn_head_dim for b in mixed.blocks if b.kind == "attention"
    )
    states = [(b, b.heads * b.head_dim) for b in mixed.blocks if b.kind == "mamba"]
    assert used["ssm"] == sum(3 * 4 * inner * b.state for b, inner in states)
    assert used["conv"] == sum(
        3 * 4 * (b.conv_kernel - 1) * (inner + 2 * b.groups * b.state) for b, inner in states
    )


@pytest.mark.parametrize(
    "wrong", [{"weights": "fp3"}, {"kv": ""}, {"state": "int4"}, {"batch": 0}, {"context": 0}]
)
def test_a_workload_that_cannot_run_is_refused(wrong):
    with pytest.raises(UserError):
        Workload(**({"context": 8} | wrong))


@pytest.mark.parametrize("tied", [False, True])
def test_matrices_and_attention_as_torch_counts_them(tied):
    length = 16
    model = init_model(replace(tiny("*-*"), tied_head=tied), 0)
    # The counter does not know the CPU's fused attention; the plain one is matrix products, which
    # it does.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, dtype=torch.int64))
    used = flops_per_token(model.architecture, length)
    assert used.scan == 0
    # torch prices attention as if every token saw all of them, which is a context of `length`.
    assert counter.get_total_flops() == length * used.total


class Counted:
    """A number that counts the multiplications and additions done with it."""

    done = 0

    def _count(self, other):
        Counted.done += 1
        return Counted()

    __mul__ = __add__ = _count


def test_the_recurrence_as_counted_step_by_step():
    block = tiny("M").blocks[0]
    Counted.done = 0
    for _ in range(block.heads * block.head_dim):
        x, dt, d = Counted(), Counted(), Counted()
        scaled, y = dt * x, d * x
        for _ in range(block.state):
            h = Counted() * Counted() + Counted() * scaled
            y = y + Counted() * h
    for _ in range(block.conv_channels):
        total = Counted()
        for _ in range(block.conv_kernel):
            total = total + Counted() * Counted()
    assert flops_per_token(tiny("M"), 1000).scan == Counted.done
    assert flops_per_token(tiny("M"), 1000).attention == 0


def test_matmul_is_two_operations_a_parameter():
    for name, (_, hidden, *_, parameters) in MODELS.items():
        ratio = flops_per_token(architecture(fields(name)), 1).matmul / (
            2 * (parameters - 131072 * hidden)
        )
        assert ratio == pytest.approx(1, abs=1e-3)


def test_what_needs_no_torch_imports_none():
    code = (
        "import sys; import minipuzzle.settings, minipuzzle.cost, minipuzzle.space,"
        " minipuzzle.nas.enumerate; import minipuzzle.nas.select, minipuzzle.nas.plan;"
        " assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
