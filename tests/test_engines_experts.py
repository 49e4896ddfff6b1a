"""Which engines load a mixture of experts, and what each is told of its sizes."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import tiny
from helpers import run

from minipuzzle import embedded
from minipuzzle.export.engines import find
from minipuzzle.export.engines.base import Asked
from minipuzzle.families import nemotron_h

SIZES = {"experts": 16, "top_k": 4, "expert_width": 32, "shared_width": 48}
CUTS = {
    "alike": ([{}, {}], "yes yes yes yes yes yes", {"vLLM": "as it is", "mlx": "as it is"}),
    "widths, top-k": (
        [{"expert_width": 16}, {"top_k": 2}],
        "yes yes yes yes yes no",
        {
            "vLLM": "with the classes in the checkpoint",
            "SGLang": "as it is",
            "TensorRT-LLM": "as it is",
            "mlx": "differ in expert_width, top_k",
        },
    ),
    "numbers": (
        [{"experts": 14}, {}],
        "yes yes yes yes no no",
        {"llama.cpp": "numbers of experts [14, 16]", "mlx": "differ in experts"},
    ),
    "shared widths": (
        [{"shared_width": 32}, {}],
        "yes yes yes yes no no",
        {"llama.cpp": "widths of the shared expert [32, 48]"},
    ),
    "latent sizes": (
        [{"latent": 16}, {"latent": 32}],
        "yes yes yes yes no no",
        {"llama.cpp": "latent sizes [16, 32]", "mlx": "differ in latent"},
    ),
    "one latent": ([{"latent": 16}] * 2, "yes yes yes yes yes yes", {}),
    "biases": (
        [{"bias": True}] * 2,
        "yes yes yes unproven no yes",
        {"llama.cpp": "mlp_bias", "TensorRT-LLM": "a bias was not looked up"},
    ),
    "one chosen": (
        [{"top_k": 1}] * 2,
        "yes yes yes yes yes no",
        {"mlx": "the gate of a single chosen expert"},
    ),
    "one chosen, as it is": (
        [{"top_k": 1, "normalised": False}] * 2,
        "yes yes yes yes yes yes",
        {},
    ),
    "odd": (
        [{"experts": 13, "expert_width": 24}] * 2,
        "yes yes yes yes yes yes",
        dict.fromkeys(
            ("vLLM", "SGLang", "TensorRT-LLM"),
            "numbers of experts [13] are odd: 2 or more GPUs cannot share them equally;"
            " expert widths [24] are no multiples of 16, as FP8 wants",
        ),
    ),
}


def hybrid(first, second, pattern="MEE*"):
    """A tiny hybrid whose first and later blocks of experts have these sizes."""
    turns = iter([first, *[second] * len(pattern)])
    return replace(
        tiny(pattern),
        blocks=tuple(
            replace(block, **SIZES | next(turns)) if "experts" in block.sizes else block
            for block in tiny(pattern).blocks
        ),
    )


def rows_of(architecture, folder, capsys):
    """The engines' rows by name, from a config.json and a tokenizer."""
    (folder / "config.json").write_text(json.dumps(nemotron_h.config(architecture, {})))
    shutil.copy(embedded.teacher_path() / "tokenizer.json", folder)
    run("export", folder, "--json")
    return {row["engine"]: row for row in json.loads(capsys.readouterr().out)["engines"]}


@pytest.mark.parametrize("case", CUTS)
def test_verdicts_on_experts(case, tmp_path, capsys):
    (first, second), loads, says = CUTS[case]
    rows = rows_of(hybrid(first, second), tmp_path, capsys)
    assert [row["loads"] for row in rows.values()] == loads.split()
    assert {engine: row["how"] for engine, row in rows.items() if engine in says} == {
        engine: Contains(text) for engine, text in says.items()
    }
    assert case == "odd" or not any("FP8" in row["how"] for row in rows.values())


class Contains(str):
    """Equal to any text that it is part of."""

    def __eq__(self, other):
        return str(self) in other

    __hash__ = str.__hash__


def test_ran_is_said_of_the_forms_that_ran(tmp_path, capsys):
    ran = {
        case: {
            engine
            for engine, row in rows_of(hybrid(*CUTS[case][0]), tmp_path, capsys).items()
            if row["source"].startswith("ran: ")
        }
        for case in ("alike", "widths, top-k", "numbers", "shared widths", "latent sizes")
    }
    both = {"transformers", "llama.cpp"}
    assert ran == {
        "alike": both | {"mlx"},
        "widths, top-k": both,
        "numbers": set(),
        "shared widths": set(),
        "latent sizes": set(),
    }


def test_engines_that_never_normalise_the_gates_of_olmoe(tmp_path):
    for normalised, loads in ((False, "yes"), (True, "no")):
        model = hybrid(*[{"normalised": normalised}] * 2)
        asked = Asked(path=tmp_path, family="olmoe", architecture=model)
        answers = {name: find(name).answer(asked) for name in ("vllm", "sglang", "mlx")}
        assert [a.loads for a in answers.values()] == [loads, loads, "yes"]
        assert ("norm_topk_prob" in answers["vllm"].how) == normalised


def test_widths_of_dense_blocks_beside_experts_leave_sglang_its_block_configs():
    model = hybrid({}, {"expert_width": 16}, pattern="MEE*--")
    *others, last = model.blocks
    model = replace(model, blocks=(*others, replace(last, intermediate=48)))
    extra = nemotron_h.extra_files(model)
    assert json.loads(extra["overrides.sglang.json"]) == {"intermediate_size": [64, 48]}
