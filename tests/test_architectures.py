"""Parameter counts and memory against the published models (arXiv:2504.03624 and NVIDIA's
configs).
"""

import json
import subprocess
import sys

import pytest
from conftest import shape_of, space_of

from minipuzzle.families.nemotron_h import architecture, config
from minipuzzle.memory import Workload, resident
from minipuzzle.nas.enumerate import enumerate_shapes
from minipuzzle.nas.plan import make_plan
from minipuzzle.settings import SearchSettings
from minipuzzle.space import shape_architecture

P8 = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
P56 = "M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-M-M-M-M-"
P47 = (
    "M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M"
    "-M-M-M-M*-M-M-M-M-M-M-M---MM---M-M*-M-M-M-M-M-"
)
P12 = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"
P9 = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
P3 = "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-"
MODELS = {  # pattern, hidden, ffn, q heads, mamba heads, head dim, state, parameters
    "8B": (P8, 4096, 21504, 32, 128, 64, 128, 8_100_852_736),
    "56B": (P56, 8192, 32768, 64, 256, 64, 256, 56_324_350_464),
    "47B": (P47, 8192, 30720, 64, 256, 64, 256, 46_791_554_816),
    "4B": (P8, 3072, 12288, 32, 112, 64, 128, 4_489_223_040),
    "12B-v2": (P12, 5120, 20480, 40, 128, 80, 128, 12_310_001_152),
    "9B-v2": (P9, 4480, 15680, 40, 128, 80, 128, 8_888_227_328),
    "3-4B": (P3, 3136, 12544, 40, 96, 80, 128, 3_973_556_832),
}
PAPER = {"context": 1_000_000, "weights": "fp4", "kv": "fp8", "state": "bf16"}
GIB = 2**30


def fields(name):
    pattern, hidden, ffn, q, heads, dim, state, _ = MODELS[name]
    return {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": pattern,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": q,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "mamba_num_heads": heads,
        "mamba_head_dim": dim,
        "ssm_state_size": state,
        "n_groups": 8,
        "conv_kernel": 4,
        "vocab_size": 131072,
    }


def paper_plan():
    settings = SearchSettings(
        budget=("31.7GiB",), context="1M", weights="fp4", kv="fp8", state="bf16"
    )
    return make_plan(architecture(fields("56B")), settings)


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts(name):
    arch = architecture(fields(name))
    assert arch.parameters == MODELS[name][-1]
    assert arch.parameters == sum(t.weight.numel(t.sizes) for t in arch.tensors())
    assert architecture(config(arch, fields(name))) == arch


@pytest.mark.parametrize(
    ("name", "gib"), [("56B", 45.73), ("47B", 31.68), ("8B", 11.45), ("4B", 9.76)]
)
def test_memory_at_the_papers_workload(name, gib):
    assert resident(architecture(fields(name)), Workload(**PAPER)).total / GIB == pytest.approx(
        gib, abs=0.005
    )


def test_memory_of_the_other_reading_of_the_paper_does_not_fit():
    shape = shape_of(attention=5, mlp=49, mamba=44, intermediate=30720, heads=256, hidden=8192)
    other = shape_architecture(architecture(fields("56B")), shape)
    assert resident(other, Workload(**PAPER)).total / GIB == pytest.approx(31.705, abs=0.0005)
    assert resident(other, Workload(**PAPER)).total > 31.7 * GIB


def test_memory_of_nano_9b():
    used = resident(architecture(fields("9B-v2")), Workload(context=2**17))
    assert used.total / GIB == pytest.approx(18.62, abs=0.005)
    assert used.total == sum(used.terms.values())


def test_the_whole_grid():
    plan = paper_plan()
    whole = space_of(
        attention=(0, 10),
        mlp=(0, 54),
        mamba=(0, 54),
        intermediate=tuple(range(24576, 32769, 1024)),
        heads=(256,),
        hidden=(8192,),
    )
    feasible = enumerate_shapes(whole, plan.prices)
    assert (whole.points, feasible.count) == (
        299_475,
        259_027,
    )  # derived independently in the method reference
    for index in range(0, feasible.count, 40_000):
        arch = shape_architecture(plan.parent, feasible.shape(index))
        assert feasible.parameters[index] == arch.parameters
        assert feasible.bytes[index] == pytest.approx(
            resident(arch, plan.prices.workload).total, abs=200
        )


def test_the_released_47b_is_feasible_and_maximal_and_six_attention_layers_are_not():
    plan = paper_plan()
    shapes = [plan.feasible.shape(i) for i in range(plan.feasible.count)]
    released = shape_of(attention=5, mlp=48, mamba=45, intermediate=30720, heads=256, hidden=8192)
    assert released in shapes
    assert plan.is_maximal[shapes.index(released)]
    assert not any(
        s.plain()["attention"] == 6 and s.plain()["intermediate"] == 30720 for s in shapes
    )
    assert plan.bounds.sizes["intermediate"] == tuple(range(24576, 32769, 1024))
    assert (
        plan.feasible.count == 356
    )  # docs/decisions/bounds-of-the-grid.md, next to the paper's "about 400"


def test_search_on_a_config_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(fields("56B")))
    words = "search DIR --budget 31.7GiB --context 1M --weights fp4 --kv fp8 --state bf16 --json"
    words = words.replace("DIR", str(tmp_path))
    code = (
        "import sys; from minipuzzle.cli import main; sys.argv = ['minipuzzle', *sys.argv[1:]]\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["feasible"] == 356
    first = result["maximal"][0]
    assert (first["attention"], first["mlp"], first["mamba"], first["intermediate"]) == (
        5,
        48,
        45,
        30720,
    )
