"""The atoms: one norm, one mixer, one residual add. Each kind declares its sizes and its weights'
axes.

Source: arXiv:2504.03624 (Nemotron-H), arXiv:2405.21060 (Mamba-2). Names of tensors here are ours
("canonical"); ``minipuzzle.families`` says what a checkpoint calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.arch.axes import Weight, weight
from minipuzzle.arch.rope import Rope

NORM = weight("norm.weight", "hidden")


@dataclass(frozen=True, kw_only=True)
class Mamba2:
    """A Mamba-2 block: ``heads`` heads of ``head_dim`` channels share B and C within each of
    ``groups`` groups.
    """

    kind: ClassVar[str] = "mamba"
    symbol: ClassVar[str] = "M"
    prunable: ClassVar[tuple[str, ...]] = ("heads", "head_dim")

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state: int
    conv_kernel: int = 4
    conv_bias: bool = True
    proj_bias: bool = False
    chunk_size: int = 128
    residual_multiplier: float = 1.0

    @property
    def inner(self) -> int:
        """Channels of x, z and y: heads x head_dim."""
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Channels the convolution runs over: x, B and C."""
        return self.inner + 2 * self.groups * self.state

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {
            "hidden": self.hidden,
            "heads": self.heads,
            "head_dim": self.head_dim,
            "groups": self.groups,
            "state": self.state,
            "kernel": self.conv_kernel,
            "one": 1,
        }

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        packed = "heads*head_dim + heads*head_dim + groups*state + groups*state + heads"
        convolved = "heads*head_dim + groups*state + groups*state"
        tensors = [
            NORM,
            weight("in_proj.weight", packed, "hidden"),
            weight("conv.weight", convolved, "one", "kernel"),
        ]
        if self.conv_bias:
            tensors.append(weight("conv.bias", convolved))
        tensors += [weight("dt_bias", "heads"), weight("A_log", "heads"), weight("D", "heads")]
        tensors += [
            weight("gated_norm.weight", "heads*head_dim"),
            weight("out_proj.weight", "hidden", "heads*head_dim"),
        ]
        if self.proj_bias:
            tensors += [weight("in_proj.bias", packed), weight("out_proj.bias", "hidden")]
        return tuple(tensors)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Grouped-query attention: query head h reads KV head h // (q_heads / kv_heads).

    ``rope`` None is attention without position embedding; ``qk_norm`` an RMS norm of each query's
    and key's head before it; ``scale`` what scores are multiplied with, None for
    attn_head_dim^-1/2; ``bias`` that of q, k and v.
    """

    kind: ClassVar[str] = "attention"
    symbol: ClassVar[str] = "*"
    prunable: ClassVar[tuple[str, ...]] = ("q_heads", "kv_heads")

    hidden: int
    q_heads: int
    kv_heads: int
    attn_head_dim: int
    bias: bool = False
    out_bias: bool = False
    rope: Rope | None = None
    qk_norm: bool = False
    scale: float | None = None
    residual_multiplier: float = 1.0

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {
            "hidden": self.hidden,
            "q_heads": self.q_heads,
            "kv_heads": self.kv_heads,
            "attn_head_dim": self.attn_head_dim,
        }

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        q, kv = "q_heads*attn_head_dim", "kv_heads*attn_head_dim"
        tensors = [
            NORM,
            weight("q_proj.weight", q, "hidden"),
            weight("k_proj.weight", kv, "hidden"),
        ]
        tensors += [weight("v_proj.weight", kv, "hidden"), weight("o_proj.weight", "hidden", q)]
        if self.bias:
            tensors += [
                weight("q_proj.bias", q),
                weight("k_proj.bias", kv),
                weight("v_proj.bias", kv),
            ]
        if self.out_bias:
            tensors.append(weight("o_proj.bias", "hidden"))
        if self.qk_norm:
            tensors += [
                weight("q_norm.weight", "attn_head_dim"),
                weight("k_norm.weight", "attn_head_dim"),
            ]
        return tuple(tensors)


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """down(f(up(x))), or where it is ``gated`` down(f(gate(x)) * up(x)), with f = ``activation``:
    "relu2" or "silu".

    A channel of a gated one has a row in gate and one in up. ``packed``: both lie in one matrix,
    gate first.
    """

    kind: ClassVar[str] = "mlp"
    symbol: ClassVar[str] = "-"
    prunable: ClassVar[tuple[str, ...]] = ("intermediate",)

    hidden: int
    intermediate: int
    bias: bool = False
    gated: bool = False
    packed: bool = False
    activation: str = "relu2"
    residual_multiplier: float = 1.0

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {"hidden": self.hidden, "intermediate": self.intermediate}

    @property
    def inputs(self) -> dict[str, str]:
        """The projections that read the stream, by name, and their rows."""
        if self.packed:
            return {"gate_up_proj": "intermediate + intermediate"}
        return (
            {"gate_proj": "intermediate", "up_proj": "intermediate"}
            if self.gated
            else {"up_proj": "intermediate"}
        )

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        tensors = [
            NORM,
            *(weight(f"{name}.weight", rows, "hidden") for name, rows in self.inputs.items()),
        ]
        tensors.append(weight("down_proj.weight", "hidden", "intermediate"))
        if self.bias:
            tensors += [weight(f"{name}.bias", rows) for name, rows in self.inputs.items()]
            tensors.append(weight("down_proj.bias", "hidden"))
        return tuple(tensors)


Block = Mamba2 | Attention | FeedForward
KINDS: dict[str, type[Mamba2] | type[Attention] | type[FeedForward]] = {
    cls.kind: cls for cls in (Mamba2, Attention, FeedForward)
}


def block_parameters(block: Block) -> int:
    """The number of parameters of a block, its norm included."""
    return sum(w.numel(block.sizes) for w in block.weights)
