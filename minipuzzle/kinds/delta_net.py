"""Gated DeltaNet (arXiv:2412.06464) with values in groups, as in Qwen3-Next and OLMo Hybrid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.kinds.axes import Rows, Weight, weight
from minipuzzle.kinds.base import NORM, Block
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.read import Read
from minipuzzle.kinds.width import Width

VALUES = "key_groups*group_heads*value_dim"
HEADS = "key_groups*group_heads"
CHUNK = 64
"""Tokens whose updates a kernel solves for at once; it keeps the solutions for the backward pass.
"""


@dataclass(frozen=True, kw_only=True)
class DeltaNet(Block):
    """``key_groups`` heads of queries and keys of ``key_dim`` channels, each with ``group_heads``
    heads of values of ``value_dim`` channels, whose state the delta rule writes.

    beta = ``beta_scale`` x sigmoid(b); above 1 the rule may turn a key's value around.
    ``gated_norm_eps`` None is the model's.

    A cut is a slice: the norm over a head's values then runs over those that stay, so that fewer
    of them pass on with the size that all had, and fewer channels of keys change y by a factor that
    this norm takes out again (up to its epsilon).
    """

    kind: ClassVar[str] = "delta_net"
    letter: ClassVar[str] = "D"
    label: ClassVar[str] = "DeltaNet"
    output: ClassVar[str] = "out_proj"
    estimator: ClassVar[str] = "contribution"
    operation: ClassVar[str] = "delta rule"
    apart: ClassVar[tuple[str, ...]] = ("conv.weight", "in_proj_ba.weight")
    widths: ClassVar[tuple[Width, ...]] = (
        Width(
            axis="key_groups",
            score="value_heads",
            of=("key_groups", "group_heads"),
            label="key groups",
            shares=(0.5, 0.75),
        ),
        Width(
            axis="group_heads",
            score="value_heads",
            of=("key_groups", "group_heads"),
            label="value heads a group",
            each="key_groups",
            coupled=("value heads", "key group"),
            shares=(0.5,),
        ),
        Width(
            axis="value_dim",
            score="value_channels",
            of=("key_groups", "group_heads", "value_dim"),
            label="value channels",
            candidates="rounded",
            switch="vary",
        ),
        Width(
            axis="key_dim",
            score="key_channels",
            of=("key_groups", "key_dim"),
            label="key channels",
            each="key_groups",
            coupled=("key channels", "key group"),
            candidates="rounded",
            switch="vary",
        ),
    )

    key_groups: int
    group_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    beta_scale: float = 1.0
    gated_norm_eps: float | None = None

    @property
    def heads(self) -> int:
        """Heads of values, each with a state of its own."""
        return self.key_groups * self.group_heads

    @property
    def keys(self) -> int:
        """Channels of all queries, and of all keys."""
        return self.key_groups * self.key_dim

    @property
    def values(self) -> int:
        """Channels of all values, and of what the output projection reads."""
        return self.heads * self.value_dim

    @property
    def conv_channels(self) -> int:
        """Channels the convolution runs over: q, k and v."""
        return 2 * self.keys + self.values

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {
            "hidden": self.hidden,
            "key_groups": self.key_groups,
            "group_heads": self.group_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "kernel": self.conv_kernel,
            "one": 1,
        }

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes; b and a, of which beta and the decay are made, are
        apart from what adapters, FP8 and weight decay touch.
        """
        convolved = f"key_groups*key_dim + key_groups*key_dim + {VALUES}"
        return (
            NORM,
            weight("in_proj_qkvz.weight", f"{convolved} + {VALUES}", "hidden"),
            weight("in_proj_ba.weight", f"{HEADS} + {HEADS}", "hidden"),
            weight("conv.weight", convolved, "one", "kernel"),
            weight("dt_bias", HEADS),
            weight("A_log", HEADS),
            weight("gated_norm.weight", "value_dim"),
            weight("out_proj.weight", "hidden", VALUES),
        )

    @property
    def points(self) -> dict[str, Rows]:
        """None: values before the recurrence say little of what a head adds."""
        return {}

    @property
    def reads(self) -> dict[str, Read]:
        """Heads and channels of values as ``out_proj`` reads them; of keys q and k as the rule
        reads them, whose products are all that passes an index of the state.
        """
        made = (Rows("in_proj_qkvz", 2),)
        values = Read(point="channels", weight="out_proj.weight", makers=made)
        keys = (Rows("in_proj_qkvz", 0), Rows("in_proj_qkvz", 1))
        return {
            "value_heads": values,
            "value_channels": values,
            "key_channels": Read(point="keys", way="products", makers=keys),
        }

    def depends_on_length(self, length: int) -> bool:
        """Never."""
        return False

    def cache(self, context: int) -> Cache:
        """The states, heads x key_dim x value_dim, and kernel - 1 inputs of the convolution."""
        return Cache(
            state=self.values * self.key_dim, window=self.conv_channels * (self.conv_kernel - 1)
        )

    def flops(self, context: int) -> Flops:
        """Of an element of the state the decay 1, what the key reads 2, what it writes 2, what the
        query reads 2. The convolution is 2 x kernel a channel, less one addition.
        """
        scan = 7 * self.values * self.key_dim
        scan += self.conv_channels * (2 * self.conv_kernel - 1)
        gates = 2 * 2 * self.heads * self.hidden  # b and a
        return Flops(matmul=self.product_flops() + gates, scan=scan)

    def saved_values(self) -> int:
        """The stream, the normed input, both projections' outputs, q and k before and after their
        norms, v, decays and beta in FP32, a chunk's solutions, the rule's output and the gated
        norm's (flash-linear-attention).
        """
        projected = self.conv_channels + self.values + 2 * self.heads
        rule = 4 * self.keys + self.values + 2 * 2 * self.heads + CHUNK * self.heads
        return 2 * self.hidden + projected + rule + 2 * self.values

    def backward_values(self) -> float:
        """The convolution's output again, gradients of it, of the projections' and of the rule's
        output, a chunk's solutions, and recurrent states and their gradients, one a chunk.
        """
        states = 2 * self.heads * self.key_dim * self.value_dim / CHUNK
        solved = self.heads * (self.key_dim + self.value_dim)
        return 3 * self.conv_channels + 2 * self.values + 2 * self.heads + solved + states
