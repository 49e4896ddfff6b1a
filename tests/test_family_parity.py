"""Every file in families/ against transformers: logits, gradients, cached decode, files in both
directions.
"""

import pytest
import torch
from family_models import FORMS, every_form, in_file, theirs_of, unclamped
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from minipuzzle import families
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.generation import generate
from minipuzzle.model import load_model
from minipuzzle.surgery import cut

LENGTH = 53
DECODED = [(name, next(iter(forms))) for name, forms in FORMS.items()]
DECODED += [
    ("llama", "dynamic, past its context"),
    ("llama", "yarn"),
    ("mistral", "own head_dim, window"),
    ("granitemoehybrid", "rope, tied"),
]


def test_every_family_has_a_model_here():
    assert (
        sorted([*FORMS, "nemotron_h_puzzle", "qwen3_5", "qwen3_5_moe"]) == families.known()
    )  # the last are in test_checkpoint.py and test_qwen3_5.py


@pytest.fixture(scope="module", params=every_form(), ids=lambda param: ": ".join(param))
def pair(request, tmp_path_factory):
    family, form = request.param
    folder = tmp_path_factory.mktemp("theirs")
    theirs = theirs_of(family, FORMS[family][form])
    theirs.save_pretrained(folder)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config["model_type"] == family
    return theirs, checkpoint, load_model(checkpoint).eval()


def tokens_for(theirs, length=LENGTH):
    # without the first and last words, which may be padding: theirs masks it in generate, and gives
    # it no gradient
    return torch.randint(
        1, theirs.config.vocab_size - 1, (2, length), generator=torch.Generator().manual_seed(1)
    )


def test_logits_and_gradients(pair):
    theirs, checkpoint, ours = pair
    tokens = tokens_for(theirs)
    want, got = theirs(tokens, use_cache=False).logits, ours(tokens)
    assert (want - got).abs().max() <= 1e-4
    assert want.std() > 0.1
    weights = torch.linspace(-1, 1, want.numel()).view_as(want)
    (want * weights).sum().backward()
    (got * weights).sum().backward()
    gradients, mine = dict(theirs.named_parameters()), dict(ours.named_parameters())
    written = load_file(checkpoint.path / "model.safetensors")
    assert (
        sum(p.numel() for p in gradients.values())
        == checkpoint.parameters
        == sum(p.numel() for p in mine.values())
    )
    buffers, state = checkpoint.architecture.buffers, ours.state_dict()
    found = {name: parameter.grad for name, parameter in gradients.items()}
    names = checkpoint.family.names(checkpoint.architecture)
    for tensor in checkpoint.architecture.tensors():
        canonical = tensor.name
        assert torch.equal(state[canonical], in_file(written, names[canonical], tensor))
        if canonical in buffers:
            continue
        want = in_file(found, names[canonical], tensor)
        scale = want.norm().clamp(min=1e-4)
        assert (mine[canonical].grad - want).norm() / scale < 1e-3, canonical


@pytest.mark.parametrize("pair", DECODED, indirect=True, ids=": ".join)
def test_cached_decode(pair):
    theirs, _, ours = pair
    tokens = tokens_for(theirs, 24)
    with torch.no_grad():
        if any(
            getattr(b, "rope", None) and b.rope.kind == "dynamic" for b in ours.architecture.blocks
        ):
            tokens = tokens[
                :, : ours.architecture.max_positions
            ]  # beyond it, old keys keep their turn
        full = ours(tokens)
        cache = ours.new_cache(2, tokens.shape[1])
        parts = [ours(tokens[:, :11], cache=cache)]
        parts += [ours(tokens[:, i : i + 1], cache=cache) for i in range(11, tokens.shape[1])]
        assert (torch.cat(parts, 1) - full).abs().max() < 1e-4
    want = theirs.generate(
        tokens[:, :9],
        max_new_tokens=6,
        do_sample=False,
        use_cache=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generate(ours, tokens[:, :9], 6) == want[:, 9:].tolist()


def test_packed_documents_do_not_leak(pair):
    theirs, _, ours = pair
    tokens, lengths = tokens_for(theirs, 24)[:1], [1, 14, 9]
    documents = torch.cat([torch.full((n,), i, dtype=torch.int32) for i, n in enumerate(lengths)])[
        None
    ]
    with torch.no_grad():
        apart = torch.cat([ours(part) for part in tokens.split(lengths, 1)], 1)
        assert (ours(tokens, documents) - apart).abs().max() < 1e-4


def test_ours_is_theirs_bit_by_bit(pair, tmp_path):
    theirs, checkpoint, ours = pair
    whole = Selection.everything(checkpoint.architecture)
    written = cut(checkpoint, whole, tmp_path / "ours")
    assert written.architecture == checkpoint.architecture
    again = unclamped(AutoModelForCausalLM.from_pretrained(written.path).eval())
    assert type(again) is type(theirs)
    state = theirs.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    tokens = tokens_for(theirs)
    with torch.no_grad():
        assert (again(tokens, use_cache=False).logits - ours(tokens)).abs().max() <= 1e-4
