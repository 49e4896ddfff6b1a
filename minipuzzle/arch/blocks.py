"""The atoms: one norm, one mixer, one residual add. Each kind declares its sizes and its weights' axes.

Source: arXiv:2504.03624 (Nemotron-H), arXiv:2405.21060 (Mamba-2). Names of tensors here are ours
("canonical"); ``minipuzzle.families`` says what a checkpoint calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.arch.axes import Weight, weight

NORM = weight("norm.weight", "hidden")


@dataclass(frozen=True, kw_only=True)
class Mamba2:
    """A Mamba-2 block: ``heads`` heads of ``head_dim`` channels share B and C within each of ``groups`` groups."""

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
            "hidden": self.hidden, "heads": self.heads, "head_dim": self.head_dim, "groups": self.groups,
            "state": self.state, "kernel": self.conv_kernel, "one": 1,
        }  # fmt: skip

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        packed = "heads*head_dim + heads*head_dim + groups*state + groups*state + heads"
        convolved = "heads*head_dim + groups*state + groups*state"
        tensors = [NORM, weight("in_proj.weight", packed, "hidden"), weight("conv.weight", convolved, "one", "kernel")]
        if self.conv_bias:
            tensors.append(weight("conv.bias", convolved))
        tensors += [weight("dt_bias", "heads"), weight("A_log", "heads"), weight("D", "heads")]
        tensors += [weight("gated_norm.weight", "heads*head_dim"), weight("out_proj.weight", "hidden", "heads*head_dim")]
        if self.proj_bias:
            tensors += [weight("in_proj.bias", packed), weight("out_proj.bias", "hidden")]
        return tuple(tensors)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Grouped-query attention without position embedding: query head h reads KV head h // (q_heads / kv_heads)."""

    kind: ClassVar[str] = "attention"
    symbol: ClassVar[str] = "*"
    prunable: ClassVar[tuple[str, ...]] = ("q_heads", "kv_heads")

    hidden: int
    q_heads: int
    kv_heads: int
    attn_head_dim: int
    bias: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {
            "hidden": self.hidden, "q_heads": self.q_heads, "kv_heads": self.kv_heads,
            "attn_head_dim": self.attn_head_dim,
        }  # fmt: skip

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        q, kv = "q_heads*attn_head_dim", "kv_heads*attn_head_dim"
        tensors = [NORM, weight("q_proj.weight", q, "hidden"), weight("k_proj.weight", kv, "hidden")]
        tensors += [weight("v_proj.weight", kv, "hidden"), weight("o_proj.weight", "hidden", q)]
        if self.bias:
            tensors += [weight("q_proj.bias", q), weight("k_proj.bias", kv), weight("v_proj.bias", kv)]
            tensors.append(weight("o_proj.bias", "hidden"))
        return tuple(tensors)


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """down(relu(up(x))**2): two matrices, no gate."""

    kind: ClassVar[str] = "mlp"
    symbol: ClassVar[str] = "-"
    prunable: ClassVar[tuple[str, ...]] = ("intermediate",)

    hidden: int
    intermediate: int
    bias: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {"hidden": self.hidden, "intermediate": self.intermediate}

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        tensors = [NORM, weight("up_proj.weight", "intermediate", "hidden")]
        tensors.append(weight("down_proj.weight", "hidden", "intermediate"))
        if self.bias:
            tensors += [weight("up_proj.bias", "intermediate"), weight("down_proj.bias", "hidden")]
        return tuple(tensors)


Block = Mamba2 | Attention | FeedForward
KINDS: dict[str, type[Mamba2] | type[Attention] | type[FeedForward]] = {
    cls.kind: cls for cls in (Mamba2, Attention, FeedForward)
}


def block_parameters(block: Block) -> int:
    """The number of parameters of a block, its norm included."""
    return sum(w.numel(block.sizes) for w in block.weights)
