"""Families: what a config.json means, and what we write for an architecture."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nemotron_h_configs import BASE, LISTED
from transformers import NemotronHConfig, NemotronHForCausalLM

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.families import nemotron_h
from minipuzzle.kinds import Attention, FeedForward, Mamba2

GOLDEN = json.loads((Path(__file__).parent / "golden" / "architectures.json").read_text())
PUZZLE = {**BASE, "model_type": "nemotron_h_puzzle"}
DIFFERING = [
    {"block_type": kind, "mamba_num_heads": 8 - 2 * index} for index, kind in enumerate(LISTED)
]
WITHOUT = {k: v for k, v in BASE.items() if k != "hybrid_override_pattern"}
small = st.integers(1, 5)


def blocks(hidden):
    mamba = (
        st.tuples(small, small)
        .map(lambda n: (n[0], n[0] * n[1]))
        .flatmap(
            lambda n: st.builds(
                Mamba2,
                hidden=st.just(hidden),
                groups=st.just(n[0]),
                heads=st.just(n[1]),
                head_dim=small,
                state=small,
                conv_kernel=st.integers(2, 4),
                conv_bias=st.booleans(),
                proj_bias=st.booleans(),
                chunk_size=small,
            )
        )
    )
    attention = st.tuples(small, small).flatmap(
        lambda n: st.builds(
            Attention,
            hidden=st.just(hidden),
            kv_heads=st.just(n[0]),
            q_heads=st.just(n[0] * n[1]),
            attn_head_dim=small,
        )
    )
    mlp = st.builds(
        FeedForward, hidden=st.just(hidden), intermediate=st.integers(1, 99), bias=st.booleans()
    )
    return mamba, attention, mlp


@st.composite
def architectures(draw):
    """Any architecture without a tied head or a bias in attention; in half of them blocks of a kind
    are alike.
    """
    hidden = draw(st.integers(1, 64))
    kinds = blocks(hidden)
    if draw(st.booleans()):
        kinds = tuple(st.just(draw(kind)) for kind in kinds)
    return Architecture(
        vocab_size=draw(st.integers(1, 999)),
        hidden=hidden,
        blocks=tuple(draw(st.lists(st.one_of(*kinds), min_size=1, max_size=8))),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6, 3e-6])),
        max_positions=draw(st.integers(1, 10**6)),
    )


def test_every_file_of_the_folder_is_a_family():
    folder = Path(families.__file__).parent
    assert families.known() == sorted(p.stem for p in folder.glob("[!_]*.py"))
    assert {"nemotron_h", "nemotron_h_puzzle"} <= set(families.known())


@pytest.mark.parametrize("name", ["nemotron_h", "nemotron_h_puzzle"])
@settings(max_examples=60, deadline=None)
@given(arch=architectures())
def test_round_trip(name, arch):
    family = families.find(name)
    written = json.loads(
        json.dumps(
            family.config(arch, {"rope_theta": 1, "mamba_d_conv": 77, "num_hidden_layers": 3})
        )
    )
    assert families.find(written["model_type"]).architecture(written) == arch
    assert written["rope_theta"] == 1
    assert family.config(arch, written) == written
    assert written["model_type"] == ("nemotron_h" if arch.homogeneous else "nemotron_h_puzzle")
    assert bool(family.extra_files(arch)) == ("auto_map" in written) == (not arch.homogeneous)
    widths = [b.intermediate for b in arch.blocks if isinstance(b, FeedForward)]
    assert written.get("intermediate_size") == max(widths, default=None)
    names = family.names(arch)
    assert list(names) == [t.name for t in arch.tensors()]
    accepted = [n for choices in names.values() for n in choices]
    assert len(accepted) == len(set(accepted))


@pytest.mark.parametrize("said", [{}, {"layers_block_type": LISTED}, {"layer_types": LISTED}])
@pytest.mark.parametrize("own", [{}, {"block_configs": DIFFERING}])
def test_the_pattern_alone_says_the_kinds(said, own):
    """Beside it transformers 5.13-5.17 refuse a list of old names, 5.6-5.12 and SGLang one of new
    names.
    """
    written = nemotron_h.config(nemotron_h.architecture({**PUZZLE, **own}), {**PUZZLE, **said})
    assert written["hybrid_override_pattern"] == "M-*M"
    assert ("block_configs" in written) == bool(own)
    assert not {"layers_block_type", "layer_types"} & set(written)


@settings(max_examples=15, deadline=None)
@given(arch=architectures().filter(lambda a: a.homogeneous))
def test_transformers_builds_the_same_tensors_from_our_config(arch):
    assert theirs(nemotron_h.config(arch, {})) == ours(arch)


@pytest.mark.parametrize("name", GOLDEN)
def test_published_architectures(name):
    golden = GOLDEN[name]
    arch = nemotron_h.architecture(golden["config"])
    assert arch.parameters == golden["parameters"]
    assert {kind: arch.count(kind) for kind in golden["counts"]} == golden["counts"]
    assert len(arch.blocks) == golden["layers"]
    want = theirs(golden["config"])
    assert sum(torch.Size(shape).numel() for shape in want.values()) == golden["parameters"]
    assert want == ours(arch)


def theirs(config):
    with torch.device("meta"):
        model = NemotronHForCausalLM(
            NemotronHConfig(**{k: v for k, v in config.items() if k != "model_type"})
        )
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def ours(arch):
    shapes = {t.name: t.shape for t in arch.tensors()}
    return {
        next(n for n in accepted if not n.startswith("backbone")).replace(
            "embedding.", "embeddings."
        ): shapes[name]
        for name, accepted in nemotron_h.names(arch).items()
    }


LEGACY = {
    "mamba_n_groups": 4,
    "mamba_d_conv": 3,
    "mamba_conv_bias": False,
    "mamba_chunk_size": 32,
    "mamba_expand": 2,
    "mamba_dt_min": 0.0005,
    "mamba_dt_max": 0.2,
    "mamba_dt_limit": [0.0, float("inf")],
    "mamba_dt_init_floor": 1e-3,
}


def test_legacy_fields_mean_what_they_mean_to_transformers():
    fields = {k: v for k, v in BASE.items() if k != "n_groups"} | LEGACY
    read, mamba = NemotronHConfig(**fields), nemotron_h.architecture(fields).blocks[0]
    assert (mamba.groups, mamba.conv_kernel, mamba.conv_bias, mamba.chunk_size) == (4, 3, False, 32)
    assert (read.n_groups, read.conv_kernel, read.use_conv_bias, read.chunk_size) == (
        4,
        3,
        False,
        32,
    )
    arch = nemotron_h.architecture(fields)
    again = NemotronHConfig(**nemotron_h.config(arch, fields))
    assert (again.n_groups, again.conv_kernel, again.use_conv_bias, again.chunk_size) == (
        4,
        3,
        False,
        32,
    )
    assert (again.time_step_min, again.time_step_max, again.time_step_floor) == (0.0005, 0.2, 1e-3)


@pytest.mark.parametrize(
    "field", ["num_key_value_heads", "head_dim", "mamba_head_dim", "n_groups", "ssm_state_size"]
)
def test_absent_fields_have_transformers_defaults(field):
    fields = {k: v for k, v in {**BASE, "num_attention_heads": 16}.items() if k != field}
    assert ours(nemotron_h.architecture(fields)) == theirs(fields)


def test_no_number_of_kv_heads_means_one_for_each_query():
    """So NemotronHConfig's __post_init__ has it, though its own type check refuses the null
    before.
    """
    assert nemotron_h.architecture({**BASE, "num_key_value_heads": None}).blocks[2].kv_heads == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"layers_block_type": LISTED},
        {"layer_types": LISTED},
        {"hybrid_override_pattern": "M-*M", "layers_block_type": LISTED},
        {
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
            "num_hidden_layers": 4,
        },
        {"block_configs": [{"block_type": kind} for kind in LISTED]},
        {"hybrid_override_pattern": "M-*M", "time_step_limit": [0.0, {"__float__": "Infinity"}]},
        {
            "hybrid_override_pattern": "M-*M",
            "time_step_limit": [0.0, float("inf")],
            "attention_bias": True,
        },
    ],
)
def test_all_ways_to_say_the_same(fields):
    assert nemotron_h.architecture({**WITHOUT, **fields}) == nemotron_h.architecture(BASE)


def test_sizes_of_single_blocks():
    own = [
        {"mamba_num_heads": 4, "mamba_head_dim": 2, "ssm_state_size": 3},
        {"intermediate_size": 7},
        {"num_attention_heads": 6, "num_key_value_heads": 3, "sliding_window": None},
        {},
    ]
    said = [{"block_type": kind, **sizes} for kind, sizes in zip(LISTED, own, strict=True)]
    arch = nemotron_h.architecture({**PUZZLE, "block_configs": said})
    plain = nemotron_h.architecture(BASE).blocks
    assert arch.blocks == (
        replace(plain[0], heads=4, head_dim=2, state=3),
        replace(plain[1], intermediate=7),
        replace(plain[2], q_heads=6, kv_heads=3),
        plain[3],
    )


def test_no_torch():
    code = (
        "import sys; from minipuzzle import families; [families.find(n) for n in"
        " families.known()]\nimport minipuzzle.checkpoint.header, minipuzzle.checkpoint.reader,"
        " minipuzzle.checkpoint.writer\nassert not {'torch', 'transformers', 'safetensors'} &"
        " set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
