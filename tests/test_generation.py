"""Generation against transformers' cached generate, prompts in pieces, rows of unequal lengths,
sampling.
"""

import io

import pytest
import torch
from conftest import shaken, tiny
from family_models import FORMS, theirs_of
from helpers import run
from transformers import TopPLogitsWarper

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.generation import Sampling, generate, stream
from minipuzzle.generation.runtime import Runtime
from minipuzzle.generation.sampling import Picker
from minipuzzle.generation.step import Decoder, prefill
from minipuzzle.memory.inference import cache_bytes
from minipuzzle.model import load_model

CHECKED = [
    ("nemotron_h", "plain"),
    ("llama", "plain"),
    ("llama", "llama3, tied"),
    ("qwen2", "plain"),
    ("bamba", "plain"),
]


def tokens_of(*shape, vocab=120, seed=1):
    return torch.randint(3, vocab, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("family", "form"), CHECKED)
def test_greedy_tokens_are_those_of_transformers(family, form, tmp_path):
    theirs = theirs_of(family, FORMS[family][form])
    theirs.save_pretrained(tmp_path)
    ours = load_model(Checkpoint.open(tmp_path)).eval()
    options = {
        "max_new_tokens": 12,
        "do_sample": False,
        "use_cache": True,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    prompts = [tokens_of(n, seed=n).tolist() for n in (9, 17, 17, 1, 30)]
    answers = generate(ours, prompts, 12)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert prompt + answer == theirs.generate(torch.tensor([prompt]), **options)[0].tolist()
    assert len({tuple(answer) for answer in answers}) > 2  # what the prompts say matters


@pytest.mark.parametrize("pattern", ["M-M*-M-", "M", "*-*"])
@pytest.mark.parametrize("piece", [1, 3, 16, 37, 64])
@torch.no_grad()
def test_a_prompt_in_pieces_is_the_whole(pattern, piece):
    model = shaken(tiny(pattern, vocab=61))
    tokens = tokens_of(2, 64, vocab=61)
    whole, parts = model.new_cache(2, 70), model.new_cache(2, 70)
    want = prefill(model, whole, tokens, 1000)
    assert (
        prefill(model, parts, tokens[:, :], piece) - want
    ).abs().max() <= 1e-5 * want.abs().max()
    assert (want - model(tokens)[:, -1]).abs().max() <= 1e-5 * want.abs().max()
    for a, b in zip(whole.slots, parts.slots, strict=True):
        for name in ("keys", "values", "window", "state"):
            if hasattr(a, name):
                x, y = getattr(a, name), getattr(b, name)
                assert (x - y).abs().max() <= 1e-5 * x.abs().max(), name


@torch.no_grad()
def test_pieces_of_every_row_at_once_and_any_split():
    model = shaken(tiny(vocab=61))
    tokens = tokens_of(3, 50, vocab=61)
    want = model(tokens)
    cache = model.new_cache(3, 50)
    got = [model(piece, cache=cache) for piece in tokens.split([7, 1, 20, 2, 20], 1)]
    assert cache.length == 50
    assert (torch.cat(got, 1) - want).abs().max() <= 1e-5 * want.abs().max()


@torch.no_grad()
def test_rows_decode_at_their_own_positions():
    """Logits of rows of unequal lengths, not only their greatest."""
    model = shaken(tiny("M*-M*-", vocab=61))
    prompts = [tokens_of(n, vocab=61, seed=n).tolist() for n in (5, 21, 21, 2)]
    following = tokens_of(4, 6, vocab=61, seed=9)
    cache = model.new_cache(4, 27)
    decoder = Decoder(model, cache, 4)
    first = prefill(model, cache, prompts, 1000)
    decoder.start([len(p) for p in prompts])
    steps = torch.stack([first] + [decoder.step(following[:, i]).clone() for i in range(6)], 1)
    for i, prompt in enumerate(prompts):
        want = model(torch.cat((torch.tensor(prompt), following[i]))[None])[0, len(prompt) - 1 :]
        assert (steps[i] - want).abs().max() <= 1e-4 * want.abs().max()


def test_end_of_text_stops_a_row_and_then_all():
    model = shaken(tiny(vocab=61))
    prompts = [tokens_of(n, vocab=61, seed=n).tolist() for n in (5, 8)]
    free = generate(model, prompts, 10)
    end = free[0][3]
    stopped = generate(model, prompts, 10, ends=[end])
    for a, b in zip(free, stopped, strict=True):
        assert b == (a[: a.index(end) + 1] if end in a else a)
    steps = list(stream(model, prompts[:1], 10, ends=[end]))
    assert len(steps) == free[0].index(end) + 1


def test_nucleus_is_transformers():
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(0)) * 2
    kept = TopPLogitsWarper(top_p=0.7)(None, logits / 0.8) > -torch.inf
    drawn = torch.zeros_like(kept)
    pick = Picker(Sampling(temperature=0.8, top_p=0.7))
    for _ in range(400):
        drawn[torch.arange(200), pick(logits)] = True
    assert not (drawn & ~kept).any()
    likely = (logits / 0.8).softmax(-1) > 0.03
    assert (drawn | ~(kept & likely)).all()


def test_frequencies_and_seeds():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20_000, 1)
    picked = Picker(Sampling(temperature=2.0))(logits)
    shares = torch.bincount(picked, minlength=4) / len(picked)
    assert (shares - torch.tensor([1.0, 0.5, 0.0, -0.5]).softmax(-1)).abs().max() < 0.015
    model, prompts = shaken(tiny(vocab=61)), [[4, 5, 6]]
    said = [
        generate(model, prompts, 20, sampling=Sampling(temperature=3.0, seed=s)) for s in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]
    assert generate(model, prompts, 20, sampling=Sampling(temperature=1e-4)) == generate(
        model, prompts, 20
    )
    assert generate(model, prompts, 20, sampling=Sampling(temperature=1.0, top_p=1e-9)) == generate(
        model, prompts, 20
    )


def test_states_in_bf16_are_smaller_and_close():
    model = shaken(tiny(vocab=61))
    prompt = tokens_of(1, 40, vocab=61)
    wide, narrow = model.new_cache(1, 41), model.new_cache(1, 41, torch.bfloat16)
    assert narrow.slots[0].state.dtype == torch.bfloat16
    logits = []
    for cache in (wide, narrow):
        decoder = Decoder(model, cache, 1)
        prefill(model, cache, prompt, 16)
        decoder.start([40])
        logits.append(decoder.step(torch.tensor([7])))
    difference = (logits[0] - logits[1]).norm() / logits[0].norm()
    assert 0 < difference < 0.02


def test_what_is_refused():
    model = shaken(tiny(vocab=61))
    with pytest.raises(UserError, match="no tokens"):
        generate(model, [[1], []], 3)
    for wrong in (
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ):
        with pytest.raises(UserError):
            Sampling(**wrong)


def test_a_rope_that_grows_takes_one_length(tmp_path):
    theirs = theirs_of("llama", FORMS["llama"]["dynamic, past its context"])
    theirs.save_pretrained(tmp_path)
    ours = load_model(Checkpoint.open(tmp_path)).eval()
    options = {
        "max_new_tokens": 8,
        "do_sample": False,
        "use_cache": True,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    for length in (9, 30):
        tokens = tokens_of(2, length)
        got = list(zip(*stream(ours, tokens, 8, tokens_at_once=4), strict=True))
        assert [list(r) for r in got] == theirs.generate(tokens, **options)[:, length:].tolist()
    with pytest.raises(UserError, match="RoPE"):
        generate(ours, [[1, 2], list(range(30))], 3)


def test_more_tokens_than_memory_holds_are_refused_before_anything_runs():
    model = shaken(tiny("M*-", vocab=61))
    for count in (1 << 40, 10**30):
        with pytest.raises(UserError, match="do not fit"):
            next(stream(model, [[1, 2]], count))
    block = shaken(tiny("*-M", vocab=61))
    cache = block.new_cache(3, 50)
    held = sum(t.nbytes for slot in cache.slots if slot is not None for t in slot.tensors())
    runtime = Runtime(dtype=torch.float32, state_dtype=torch.float32, fast=False)
    assert cache_bytes(block.architecture, 3, 50, runtime) == held


def test_the_coldest_draws_are_greedy():
    logits = torch.tensor([[1.0, 3.0, 2.0], [-5e4, -4e4, -6e4]])
    for temperature in (1e-3, 1e-20, 1e-45, 1e-320):
        assert Picker(Sampling(temperature=temperature))(logits).tolist() == [1, 1]


def test_generate_says_what_its_settings_may_be(checkpoint, capsys, monkeypatch):
    for option in (
        ("--tokens", 0),
        ("--tokens", -5),
        ("--tokens", 10**18),
        ("--temperature", "nan"),
        ("--temperature", -1),
        ("--temperature", "inf"),
        ("--top-p", 0),
        ("--top-p", 1.01),
        ("--top-p", "nan"),
        ("--seed", -1),
        ("--seed", 1 << 63),
    ):
        run("generate", checkpoint, "It was", *option, "--device", "cpu", code=2)
        assert "next:" in capsys.readouterr().err
    run("generate", checkpoint, "\udcff", "--device", "cpu", code=2)
    assert "not Unicode" in capsys.readouterr().err
    run("generate", checkpoint, "", "--tokens", 3, "--device", "cpu")
    assert "1 tokens read, " in capsys.readouterr().err
    monkeypatch.setattr(
        "sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    )  # a terminal without the letter
    run("generate", checkpoint, "caf\xe9", "--tokens", 1, "--device", "cpu")
