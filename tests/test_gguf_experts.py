"""A cut mixture of experts in llama.cpp, in transformers and here: the same words."""

import shutil

import numpy as np
import pytest
import torch
from conftest import VOCAB
from family_models import FORMS, theirs_of, unclamped
from llama_cpp_server import LlamaCpp, largest_difference
from transformers import AutoModelForCausalLM

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.export.gguf import export_gguf
from minipuzzle.generation import generate
from minipuzzle.model import load_model
from minipuzzle.surgery import cut

STEPS = 40
PROMPT = list(range(7, 40))
EVEN = {"experts": (0, 2, 3, 4, 6, 7), "width": 16, "top_k": 2}


def cut_experts(parent, target, sizes):
    """Each block of experts with sizes of its own turn; every expert keeps channels of its own."""
    rng, kept, turn = np.random.default_rng(0), [], 0
    for block in parent.architecture.blocks:
        if block.kind != "moe":
            kept.append({})
            continue
        size, turn = sizes[turn % len(sizes)], turn + 1
        experts, whole = size["experts"], block.expert_width
        channels = [
            e * whole + int(i)
            for e in experts
            for i in sorted(rng.permutation(whole)[: size["width"]])
        ]
        axes = {"experts": experts, "experts*expert_width": tuple(channels)}
        kept.append(axes | {"top_k": tuple(range(size["top_k"]))})
    return cut(parent, Selection(blocks=tuple(kept)), target)


def parent_of(form, folder, **fields):
    wanted = {**FORMS["nemotron_h"][form], "vocab_size": VOCAB, "mlp_bias": False, **fields}
    theirs_of("nemotron_h", wanted, seed=3).save_pretrained(folder)
    shutil.copy(embedded.teacher_path() / "tokenizer.json", folder)
    return Checkpoint.open(folder)


@torch.no_grad()
@pytest.mark.parametrize(
    ("form", "fields", "sizes"),
    [
        ("experts", {}, [EVEN]),
        ("latent experts in groups, dense too", {"hybrid_override_pattern": "MEE*E"}, [EVEN]),
        ("experts", {}, [EVEN, {**EVEN, "width": 8, "top_k": 3}]),
    ],
    ids=["alike", "latent, in groups", "a size a block"],
)
def test_a_cut_mixture_says_the_same_in_llama_cpp_in_transformers_and_here(
    form, fields, sizes, tmp_path, remote_code
):
    student = cut_experts(parent_of(form, tmp_path / "parent", **fields), tmp_path / "cut", sizes)
    model = load_model(student).eval()
    ours = PROMPT + generate(model, [PROMPT], STEPS)[0]
    log_p = torch.log_softmax(model(torch.tensor([ours]))[0], -1)[len(PROMPT) - 1 : -1]

    theirs = unclamped(
        AutoModelForCausalLM.from_pretrained(
            student.path, trust_remote_code=True, dtype=torch.float32
        ).eval()
    )
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    assert theirs.generate(torch.tensor([PROMPT]), pad_token_id=1, **options)[0].tolist() == ours

    export_gguf(student, tmp_path / "x.gguf")
    with LlamaCpp(tmp_path / "x.gguf") as server:
        tokens, steps = server.greedy(PROMPT, STEPS)
    assert PROMPT + tokens == ours
    assert largest_difference(steps, log_p) <= 1e-4


def test_what_llama_cpp_has_no_place_for(tmp_path):
    parent = parent_of("experts", tmp_path / "parent")
    fewer = {**EVEN, "experts": (0, 1, 2, 3, 4)}
    with pytest.raises(UserError, match="no place") as caught:
        export_gguf(cut_experts(parent, tmp_path / "cut", [EVEN, fewer]), tmp_path / "x.gguf")
    assert "numbers of experts [5, 6]" in str(caught.value)
