"""The plan of a distillation against the sizing of the reference (training.md 4.4: derived by hand
from the counts).
"""

import json
import sys
from pathlib import Path

import pytest
from helpers import run

from minipuzzle.checkpoint.config import read_config
from minipuzzle.cost.distill_plan import DistillPlan

EXAMPLES = Path(__file__).parent.parent / "docs/examples"


def plan(**options):
    student, teacher = (read_config(EXAMPLES / f"nemotron-h-{size}")[1] for size in ("47b", "56b"))
    return DistillPlan(
        student=student, teacher=teacher, **{"tokens": 63_000_000_000, "length": 8192, **options}
    )


@pytest.mark.parametrize(("gpus", "gigabytes"), [(8, 108), (16, 54), (32, 27), (64, 13.5)])
def test_weights_and_states(gpus, gigabytes):
    """Teacher 113 GB + student 16 bytes a parameter, 749 GB: 862 GB over all GPUs."""
    terms = plan().terms(gpus, checkpointing=True)
    held = sum(size for name, size in terms.items() if "BF16" in name or "FP32" in name)
    assert held / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_activations_flops_and_hours():
    made = plan()
    assert made.terms(16, checkpointing=True)["activations"] / 1e9 == pytest.approx(
        98 * 8192 * 8192 * 2 / 1e9, rel=0.15
    )
    assert made.flops_per_token / 1e9 == pytest.approx(393, rel=0.01)
    for tflops, hours in ((350, 24_000), (450, 19_000), (600, 14_000)):
        # the reference counts the recomputed forward, 487 GF, against the arithmetic that the GPU
        # does
        reached = plan(mfu=tflops / 989 * 393 / 487)
        assert reached.gpu_hours() == pytest.approx(hours, rel=0.03)


def test_gpus_needed():
    """The reference's 16 x 80 GB leaves out what is gathered (12 GiB here): with it, 24."""
    made = plan()
    assert made.least_gpus("80 GB", checkpointing=True) == 24
    assert made.least_gpus("141 GB", checkpointing=True) == 8
    assert made.least_gpus("80 GB", checkpointing=False) is None


def test_command(capsys):
    options = (
        "--teacher",
        EXAMPLES / "nemotron-h-56b",
        "--student",
        EXAMPLES / "nemotron-h-47b",
        "--tokens",
        63_000_000_000,
    )
    torch = {name for name in sys.modules if name.startswith("torch")}
    run("distill", "--plan", *options, "--length", 8192, "--json")
    assert json.loads(capsys.readouterr().out)["least_gpus"]["80 GB"]["checkpointing"] == 24
    run("distill", "--plan", *options, "--length", 8192)
    assert "at least 24 GPUs" in capsys.readouterr().out
    run("distill", "--plan", code=2)
    assert "docs/examples" in capsys.readouterr().err
    assert {name for name in sys.modules if name.startswith("torch")} == torch
