"""What config.json claims and the weights contradict: refused, with what the files are instead."""

import pytest
import torch
from checkpoint_folders import EMBEDDING, FP8, HEAD, NORM, ONE, TWO, fp8, made, say, shards, weights
from safetensors.torch import load_file, save_file

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError


def without(name):
    return lambda f: weights(f, lambda t: {n: v for n, v in t.items() if name not in n})


def renamed(change):
    return lambda f: weights(f, lambda t: {change(n): v for n, v in t.items()})


def twice(folder):
    shards(folder)
    save_file(load_file(folder / ONE) | {NORM: load_file(folder / TWO)[NORM]}, folder / ONE)


def body(values):
    return {n.removeprefix("model."): v for n, v in values.items() if n != HEAD}


def shaped(dtype):
    return lambda f: weights(f, lambda t: t | {NORM: t[NORM].to(dtype)})


REFUSED = {
    "fewer layers": (
        lambda f: say(f, num_hidden_layers=2),
        ["9 tensors", "no place", "model.layers.2."],
    ),
    "more layers": (
        lambda f: say(f, num_hidden_layers=4),
        ["model.layers.3.", "9 tensors", "missing"],
    ),
    "fewer words": (lambda f: say(f, vocab_size=100), [EMBEDDING, "(100, 32)"]),
    "more words": (lambda f: say(f, vocab_size=128), [EMBEDDING, "(128, 32)"]),
    "other KV heads": (lambda f: say(f, num_key_value_heads=4), ["k_proj", "(16, 32)"]),
    "a bias that is not there": (
        lambda f: say(f, attention_bias=True),
        ["q_proj.bias", "12 tensors of attention blocks missing"],
    ),
    "no bias, and there is one": (
        lambda f: weights(f, lambda t: t | {"model.layers.0.mlp.up_proj.bias": torch.ones(48)}),
        ["up_proj.bias", "no bias"],
    ),
    "a bias of the head": (
        lambda f: weights(f, lambda t: t | {"lm_head.bias": torch.ones(120)}),
        ["lm_head.bias"],
    ),
    "no norm of queries, and there is one": (
        lambda f: weights(
            f, lambda t: t | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}
        ),
        ["q_norm"],
    ),
    "norms of queries that are not there": (
        lambda f: say(f, model_type="qwen3"),
        ["q_norm", "missing"],
    ),
    "no experts, and there are some": (
        lambda f: weights(
            f, lambda t: t | {"model.layers.0.mlp.experts.0.up_proj.weight": torch.ones(2, 2)}
        ),
        ["fewer experts than the files"],
    ),
    "a head that is not there": (without("lm_head"), [HEAD, "tie_word_embeddings"]),
    "a classifier": (
        lambda f: weights(
            f, lambda t: {n: v for n, v in t.items() if n != HEAD} | {"score.weight": torch.ones(2)}
        ),
        [HEAD, "classifier"],
    ),
    "neither true nor false": (
        lambda f: say(f, tie_word_embeddings="false"),
        ["tie_word_embeddings", "'false'"],
    ),
    "a number of 400 digits": (
        lambda f: say(f, rope_parameters={"rope_type": "default", "rope_theta": 10**400}),
        ["rope_theta"],
    ),
    "other weights": (
        lambda f: say(f, transformers_weights="w.safetensors"),
        ["transformers_weights", "w.safetensors"],
    ),
    "an adapter beside it": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        ["adapter_config.json", "minipuzzle merge"],
    ),
    "an index that places a tensor elsewhere": (
        lambda f: shards(f, lambda w: w | {NORM: ONE}),
        [NORM, TWO, "disagree"],
    ),
    "an index that names a tensor too many": (
        lambda f: shards(f, lambda w: w | {"x": ONE}),
        ["disagree", "no shard"],
    ),
    "an index that lacks a shard": (
        lambda f: shards(f, lambda w: {n: s for n, s in w.items() if s == ONE}),
        ["missing"],
    ),
    "a tensor in two shards": (twice, ["two shards", NORM]),
    "FP8 with scales that config.json is silent on": (
        fp8,
        ["quantised", "weight_scale_inv", "F8_E4M3"],
    ),
    "FP8 without its scales": (
        lambda f: (fp8(f), without("scale_inv")(f), say(f, quantization_config=FP8)),
        ["no scales", "weight_scale_inv", "FP8 with scales, fp8"],
    ),
    "GPTQ": (renamed(lambda n: n.replace("proj.weight", "proj.qweight")), ["quantised", "qweight"]),
    "whole numbers": (shaped(torch.int8), ["quantised", "I8"]),
    "DataParallel": (renamed("module.{}".format), ["module.", "DataParallel", "save_pretrained"]),
    "torch.compile": (renamed("_orig_mod.{}".format), ["_orig_mod.", "torch.compile"]),
    "both, inside": (
        renamed(
            lambda n: n.replace("layers.", "layers._orig_mod.").replace(
                "self_attn", "module.self_attn"
            )
        ),
        ["DataParallel and torch.compile"],
    ),
    "part of another model": (renamed("language_model.{}".format), ["'language_model.'", "part"]),
    "AutoModel": (lambda f: weights(f, body), ["AutoModel", "no 'model'"]),
    "an adapter": (
        lambda f: weights(
            f,
            lambda t: {
                "base_model.model.model.layers.0.q_proj.lora_A.weight": torch.ones(2),
                "x": torch.ones(1),
            },
        ),
        ["adapter", "minipuzzle merge"],
    ),
    "something else": (
        lambda f: weights(f, lambda t: {"x": torch.ones(1)}),
        [EMBEDDING, "30 tensors", "1 others such as x"],
    ),
}


@pytest.mark.parametrize("claim", REFUSED)
def test_refused_with_what_the_files_are(claim, tmp_path):
    change, says = REFUSED[claim]
    change(made(tmp_path))
    with pytest.raises(UserError) as caught:
        Checkpoint.open(tmp_path)
    assert [words for words in says if words not in str(caught.value)] == []
    assert "do not belong together" not in str(caught.value)


def test_a_family_without_ties_is_not_told_to_tie(tmp_path):
    without("lm_head")(made(tmp_path, "nemotron_h"))
    with pytest.raises(UserError, match="head of its own") as caught:
        Checkpoint.open(tmp_path)
    assert "tie_word_embeddings" not in caught.value.next
