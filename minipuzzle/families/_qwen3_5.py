"""What the Qwen 3.5 families share: three layers of gated DeltaNet to one of attention with an
output gate, every norm but DeltaNet's own centred on zero, SwiGLU or experts with a gated shared
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._delta import (
    DELTA_FIELDS,
    FULL,
    LINEAR,
    layer_kinds,
    read_delta,
    write_delta,
)
from minipuzzle.families._experts import EXPERT_TENSORS, SHARED_TENSORS, read_experts, write_experts
from minipuzzle.families._fields import epsilon, error, flag, number, own, positive, whole
from minipuzzle.families._layers import (
    LAYER_FIELDS,
    Tensors,
    attention_sizes,
    feed_forward,
    first,
    in_layer,
    layer_names,
)
from minipuzzle.families._parts import Name
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families.llama import biases
from minipuzzle.kinds import Attention, Block, Experts, FeedForward

FIELDS = (
    LAYER_FIELDS
    | DELTA_FIELDS
    | {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "full_attention_interval": None,
        "attn_output_gate": None,
        "output_gate_type": None,
        "mtp_num_hidden_layers": None,
        "mtp_use_dedicated_embeddings": None,
        "mtp_sizes": None,
    }
)
"""``mtp_sizes`` is ours: fields of the layers of multi-token prediction that a cut left otherwise
than the model's.
"""
EVERY = "full_attention_interval"
WIDTH, SHARED = "moe_intermediate_size", "shared_expert_intermediate_size"
MROPE = ("mrope_section", "mrope_interleaved")
"""Which frequencies turn by time, height and width of an image; in a text these are one."""

TENSORS: Tensors = {
    "delta_net": {
        "norm.weight": "input_layernorm.weight",
        "in_proj_qkvz.weight": (
            (*("linear_attn.in_proj_qkv.weight",) * 3, "linear_attn.in_proj_z.weight"),
        ),
        "in_proj_ba.weight": (tuple(f"linear_attn.in_proj_{p}.weight" for p in "ba"),),
        "conv.weight": "linear_attn.conv1d.weight",
        "dt_bias": "linear_attn.dt_bias",
        "A_log": "linear_attn.A_log",
        "gated_norm.weight": "linear_attn.norm.weight",
        "out_proj.weight": "linear_attn.out_proj.weight",
    },
    "attention": llama.TENSORS["attention"],
    "mlp": llama.TENSORS["mlp"],
    "moe": {
        **EXPERT_TENSORS,
        **SHARED_TENSORS,
        # stacks, as on the hub; or a matrix an expert
        "experts.gate_up_proj": EXPERT_TENSORS["experts.gate_up_proj"][::-1],
        "experts.down_proj": EXPERT_TENSORS["experts.down_proj"][::-1],
    },
}
MTP = {
    "embedding_norm.weight": "pre_fc_norm_embedding.weight",
    "hidden_norm.weight": "pre_fc_norm_hidden.weight",
    "in_proj.weight": "fc.weight",
    "final_norm.weight": "norm.weight",
}


COMPUTED: dict[str, tuple[Any, ...]] = {
    "attn_output_gate": (None, True),
    "output_gate_type": (None, "swish", "silu"),
    "mtp_use_dedicated_embeddings": (None, False),
}
"""Fields that transformers' class does not read, and their values that mean what it computes."""


def read(config: dict[str, Any], known: Mapping[str, Any]) -> Architecture:
    """The architecture of a text's config.json; ``known`` are the fields of its family.

    Raises: UserError for impossible sizes, an unknown kind of layer or type of RoPE, another
    activation or another gate.
    """
    fields = own(config, known)
    for name, allowed in COMPUTED.items():
        if fields[name] not in allowed:
            raise error(f"{name} is not supported.", got=fields[name], allowed=allowed[1:])
    hidden, layers = positive(fields, "hidden_size"), positive(fields, "num_hidden_layers")
    every = 4 if fields[EVERY] is None else positive(fields, EVERY)
    kinds = layer_kinds(fields, [LINEAR if (i + 1) % every else FULL for i in range(layers)])
    attention, second = _full_layer(fields, hidden)
    linear = (read_delta(fields, hidden, zero_centred=True), second)
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(b for k in kinds for b in (linear if k == LINEAR else (attention, second))),
        mtp=_mtp(fields, hidden),
        norm_eps=epsilon(fields, "rms_norm_eps"),
        zero_centred=True,
        tied_head=flag(fields, "tie_word_embeddings"),
        max_positions=positive(fields, "max_position_embeddings"),
        rules=llama.RULES,
    )


def write(
    architecture: Architecture, original: dict[str, Any], model_type: str, model_class: str
) -> dict[str, Any]:
    """The config.json of a text's architecture. Raises: UserError for one that no such config can
    say.
    """
    attention = first(architecture, "attention")
    rope: dict[str, Any] = {}
    if attention is not None:
        rope = write_rope(attention.rope, attention.attn_head_dim)
        said = original.get("rope_scaling") or original.get("rope_parameters") or {}
        rope["rope_parameters"] |= {name: said[name] for name in MROPE if name in said}
    said_of_model = {
        **_sizes(architecture.blocks),
        **write_delta(architecture),
        **rope,
        "attention_bias": biases(architecture)["attention_bias"],
    }
    others: dict[str, Any] = {"mtp_num_hidden_layers": 0, "mtp_sizes": None}
    if architecture.mtp:
        (step,) = architecture.mtp
        top = {**original, **said_of_model}
        apart = {k: v for k, v in _sizes(step).items() if top.get(k) != v}
        others = {"mtp_num_hidden_layers": len(step) // 2, "mtp_sizes": apart or None}
    others = {k: v for k, v in others.items() if v or k in original}
    return llama.write(architecture, original, model_type, model_class, **said_of_model, **others)


def names(architecture: Architecture, root: str) -> dict[str, tuple[Name, ...]]:
    """Canonical name -> how a file holds it; ``root`` is "model." or where a model of several parts
    has its text.
    """
    top = {name: theirs.replace("model.", root) for name, theirs in llama.TOP.items()}
    result = layer_names(architecture, TENSORS, top, root)
    for tensor in architecture.mtp_tensors():
        _, step, place = tensor.name.split(".", 2)
        if not place.startswith("blocks."):
            result[tensor.name] = (f"mtp.{MTP[place]}",)
            continue
        _, index, name = place.split(".", 2)
        kind = architecture.mtp[int(step)][int(index)].kind
        prefix = f"mtp.layers.{int(index) // 2}."
        result[tensor.name] = in_layer(TENSORS[kind][name], prefix, tensor.shape[0])
    return result


def _full_layer(fields: Mapping[str, Any], hidden: int) -> tuple[Attention, Block]:
    """A layer of attention, and what follows on every mixer."""
    q, kv, head_dim = attention_sizes(fields, hidden)
    bias = flag(fields, "attention_bias")
    attention = Attention(
        hidden=hidden,
        q_heads=q,
        kv_heads=kv,
        attn_head_dim=head_dim,
        bias=bias,
        out_bias=bias,
        qk_norm=True,
        rope=read_rope(fields, head_dim, number(fields, "partial_rotary_factor", 0.25)),
        output_gate=True,
        zero_centred=True,
    )
    if "num_experts" not in fields:
        return attention, replace(feed_forward(fields, hidden), zero_centred=True)
    gates = {"norm_topk_prob": True, "num_local_experts": None}  # always: no field says otherwise
    routed = read_experts({**fields, **gates}, hidden, WIDTH)
    shared = positive(fields, SHARED)
    return attention, replace(routed, shared_width=shared, shared_gate=True, zero_centred=True)


def _mtp(fields: Mapping[str, Any], hidden: int) -> tuple[tuple[Block, ...], ...]:
    """The blocks of the one step of multi-token prediction: layers of attention."""
    count = 0 if fields["mtp_num_hidden_layers"] is None else whole(fields, "mtp_num_hidden_layers")
    apart = fields["mtp_sizes"] or {}
    if not isinstance(apart, Mapping) or set(apart) - set(fields):
        raise error(
            "mtp_sizes is not an object of sizes.", got=apart, allowed="fields of the model's sizes"
        )
    return (_full_layer({**fields, **apart}, hidden) * count,) if count else ()


def _sizes(blocks: Sequence[Block]) -> dict[str, Any]:
    """The fields of the sizes of attention and of what follows on it."""
    found: dict[str, Any] = {}
    for block in blocks:
        if isinstance(block, Attention):
            found |= {"num_attention_heads": block.q_heads, "num_key_value_heads": block.kv_heads}
            found["head_dim"] = block.attn_head_dim
        elif isinstance(block, FeedForward):
            found["intermediate_size"] = block.intermediate
        elif isinstance(block, Experts):
            found |= {**write_experts(block, WIDTH), SHARED: block.shared_width}
            del found["norm_topk_prob"]
    return found
