"""GGUF files against llama.cpp itself: the same tokens, the same probabilities, the same words."""

import bz2
import shutil
from collections import Counter

import gguf
import numpy as np
import pytest
import torch
from conftest import VOCAB, save, shaken, tiny
from family_models import FORMS, theirs_of
from helpers import run
from llama_cpp_server import LlamaCpp, largest_difference
from test_model import unclamped
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

from minipuzzle import embedded
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.export.gguf import export_gguf
from minipuzzle.export.gguf_tokenizer import SPLITS, WHOLE_WORDS_FIRST
from minipuzzle.generation import generate
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.model import load_model
from minipuzzle.surgery import cut

STEPS = 40
WIDTHS = iter((896, 832, 704, 640, 800, 512))
with bz2.open(embedded.text_path("validation") / "speeches.txt.bz2", "rt") as _file:
    TEXT = _file.read()


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The embedded teacher cut to five FFN widths of its own in blocks 1..10, without block 11."""
    parent = Checkpoint.open(embedded.teacher_path())
    kept = [
        {"intermediate": tuple(range(next(WIDTHS)))} if b.kind == "mlp" else {}
        for b in parent.architecture.blocks
    ]
    kept[11] = None
    return cut(parent, Selection(blocks=tuple(kept)), tmp_path_factory.mktemp("pruned") / "student")


def probabilities(logits, prompt):
    return torch.log_softmax(logits[0].float(), -1)[len(prompt) - 1 : -1]


@torch.no_grad()
def test_the_pruned_student_says_the_same_in_llama_cpp_in_transformers_and_here(
    student, tmp_path, remote_code, capsys
):
    assert len({b.intermediate for b in student.architecture.blocks if b.kind == "mlp"}) == 6
    prompt = Tokenizer.from_file(str(student.path / "tokenizer.json")).encode(TEXT[:400]).ids[:48]
    model = load_model(student).eval()
    ours = prompt + generate(model, [prompt], STEPS)[0]
    log_p = probabilities(model(torch.tensor([ours])), prompt)

    theirs = unclamped(
        AutoModelForCausalLM.from_pretrained(
            student.path, trust_remote_code=True, dtype=torch.float32
        ).eval()
    )
    options = {
        "max_new_tokens": STEPS,
        "min_new_tokens": STEPS,
        "do_sample": False,
        "pad_token_id": 1,
    }
    assert theirs.generate(torch.tensor([prompt]), **options)[0].tolist() == ours
    assert (probabilities(theirs(torch.tensor([ours])).logits, prompt) - log_p).abs().max() <= 1e-4

    run("export", student.path, "--gguf", tmp_path / "student.gguf", "--dtype", "f32")
    assert f"{student.parameters:,} parameters" in capsys.readouterr().out
    with LlamaCpp(tmp_path / "student.gguf") as server:
        tokens, steps = server.greedy(prompt, STEPS)
    assert prompt + tokens == ours
    assert len(steps) == STEPS
    assert all(steps)
    assert largest_difference(steps, log_p) <= 1e-4


BLOCKS = (
    Mamba2(hidden=32, heads=4, head_dim=8, groups=2, state=16, conv_bias=False, chunk_size=16),
    FeedForward(hidden=32, intermediate=40, bias=True),
    Attention(hidden=32, q_heads=2, kv_heads=1, attn_head_dim=16),
    Mamba2(hidden=32, heads=4, head_dim=8, groups=2, state=16, conv_bias=False, chunk_size=16),
    Attention(hidden=32, q_heads=4, kv_heads=2, attn_head_dim=16),
    FeedForward(hidden=32, intermediate=72, bias=True),
)
ODD = {
    "every attention another": Architecture(
        vocab_size=VOCAB, hidden=32, blocks=BLOCKS, norm_eps=1e-3
    ),
    "attention first": Architecture(vocab_size=VOCAB, hidden=32, blocks=BLOCKS[2:], norm_eps=1e-6),
}


@torch.no_grad()
@pytest.mark.parametrize("name", ODD)
def test_odd_shapes_are_served_as_they_are(name, tmp_path):
    model = shaken(ODD[name])
    written = export_gguf(Checkpoint.open(save(model, tmp_path / "odd")), tmp_path / "odd.gguf")
    assert (written.dtype, written.notes) == ("f32", ())
    prompt = list(range(7, 40))
    ours = prompt + generate(model, [prompt], 8)[0]
    with LlamaCpp(tmp_path / "odd.gguf") as server:
        tokens, steps = server.greedy(prompt, 8)
    assert prompt + tokens == ours
    assert largest_difference(steps, probabilities(model(torch.tensor([ours])), prompt)) <= 1e-4


LLAMAS = [
    ("llama", "plain"),
    ("llama", "linear, biases, own head_dim"),
    ("llama", "llama3, tied"),
    ("mistral", "plain"),
    ("qwen2", "plain"),
    ("qwen3", "plain"),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "form"), LLAMAS)
def test_llama_types_say_the_same_in_llama_cpp_and_in_transformers(family, form, tmp_path):
    theirs = theirs_of(family, {**FORMS[family][form], "vocab_size": VOCAB}, seed=3)
    theirs.save_pretrained(tmp_path / "model")
    shutil.copy(embedded.teacher_path() / "tokenizer.json", tmp_path / "model")
    checkpoint = Checkpoint.open(tmp_path / "model")
    written = export_gguf(checkpoint, tmp_path / "x.gguf")
    prompt = list(range(407, 440))
    ours = prompt + generate(load_model(checkpoint).eval(), [prompt], 16)[0]
    with LlamaCpp(tmp_path / "x.gguf") as server:
        tokens, steps = server.greedy(prompt, 16)
    assert prompt + tokens == ours
    assert (
        largest_difference(steps, probabilities(theirs(torch.tensor([ours])).logits, prompt))
        <= 1e-4
    )
    stored = sum(
        t.n_elements for t in gguf.GGUFReader(written.path).tensors if t.name != "rope_freqs.weight"
    )
    assert stored == checkpoint.parameters


@pytest.mark.parametrize(
    ("dtype", "allowed"), [("f32", 0), ("bf16", 2**-8), ("f16", 2**-11), ("q8_0", 0.01)]
)
def test_what_is_stored_reads_back(dtype, allowed, tmp_path):
    checkpoint = Checkpoint.open(save(shaken(tiny("M-*", intermediate=96)), tmp_path / "model"))
    written = export_gguf(checkpoint, tmp_path / "x.gguf", dtype)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert len(reader.tensors) == written.tensors
    assert written.types == Counter(t.tensor_type.name for t in reader.tensors)
    assert sum(t.n_elements for t in reader.tensors) == checkpoint.parameters
    for name, source in (
        ("blk.1.ffn_up.weight", "blocks.1.up_proj.weight"),
        ("token_embd.weight", "embeddings.weight"),
    ):
        stored = next(t for t in reader.tensors if t.name == name)
        assert stored.tensor_type.name == dtype.upper()
        want = checkpoint.tensor(source).numpy()
        assert (
            np.abs(gguf.quants.dequantize(stored.data, stored.tensor_type) - want).max()
            <= allowed * np.abs(want).max()
        )
    assert all(
        t.tensor_type.name == "F32"
        for t in reader.tensors
        if "norm" in t.name or "ssm_conv1d" in t.name
    )


def test_the_checkpoints_own_dtype_is_the_default_and_rows_too_odd_for_q8_are_said(
    tmp_path, student
):
    assert student.dtype == "BF16"
    assert export_gguf(student, tmp_path / "own.gguf").dtype == "bf16"
    odd = Checkpoint.open(save(shaken(ODD["attention first"]), tmp_path / "odd"))
    notes = export_gguf(odd, tmp_path / "q8.gguf", "q8_0").notes
    assert any("blk.3.ffn_down.weight" in note and "F16" in note for note in notes)


STEPS_OF = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    **{
        name: pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(steps[0]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        for steps, name in SPLITS.items()
        if len(steps) == 2 and name != "smollm"
    },
}
HARD = (
    "naïve café — “quotes”, 漢字かな, Ελληνικά, emoji 🙂🙃\r\n\ttabs   and    runs\n\n\n  12345 67"
    " 3.14, it's HE'LL we'Re\n x=1;y[2]{z}//\u00a0no-break\u2003em"
)


@pytest.mark.parametrize("name", SPLITS.values())
def test_llama_cpp_splits_text_as_the_tokenizer_does(name, tmp_path):
    own = Tokenizer(models.BPE(ignore_merges=name in WHOLE_WORDS_FIRST))
    own.pre_tokenizer, own.decoder = STEPS_OF[name], decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        [TEXT[:200_000], HARD],
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=["<|endoftext|>"],
            show_progress=False,
            initial_alphabet=alphabet,
        ),
    )
    path = save(shaken(tiny("M*-")), tmp_path / "model", tokenizer=False)
    own.save(str(path / "tokenizer.json"))
    export_gguf(Checkpoint.open(path), tmp_path / "x.gguf")
    with LlamaCpp(tmp_path / "x.gguf") as server:
        for text in (TEXT[:60_000], TEXT[-60_000:], HARD):
            assert server.tokenize(text) == own.encode(text, add_special_tokens=False).ids


def test_the_embedded_tokenizer_is_the_same_on_all_of_the_validation_text(tmp_path):
    teacher = Checkpoint.open(embedded.teacher_path())
    export_gguf(teacher, tmp_path / "teacher.gguf")
    ours = Tokenizer.from_file(str(teacher.path / "tokenizer.json"))
    with LlamaCpp(tmp_path / "teacher.gguf") as server:
        for start in range(0, len(TEXT), 50_000):
            text = TEXT[start : start + 50_000]
            assert server.tokenize(text) == ours.encode(text).ids
    fields = gguf.GGUFReader(tmp_path / "teacher.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.ggml.token_type"].contents(slice(0, 3)) == [
        3,
        3,
        1,
    ]  # control, control, normal
