"""Mamba-2 (arXiv:2405.21060), with z, x, B, C and dt packed in one projection as in Nemotron-H
(arXiv:2504.03624).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.kinds.axes import Rows, Weight, weight
from minipuzzle.kinds.base import NORM, Block
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.read import Read
from minipuzzle.kinds.width import Width


@dataclass(frozen=True, kw_only=True)
class Mamba2(Block):
    """``heads`` heads of ``head_dim`` channels share B and C within each of ``groups`` groups."""

    kind: ClassVar[str] = "mamba"
    letter: ClassVar[str] = "M"
    label: ClassVar[str] = "Mamba-2"
    output: ClassVar[str] = "out_proj"
    estimator: ClassVar[str] = "contribution"
    apart: ClassVar[tuple[str, ...]] = ("conv.weight",)
    widths: ClassVar[tuple[Width, ...]] = (
        Width(
            axis="heads",
            score="head_channels",
            of=("heads", "head_dim"),
            label="Mamba heads",
            within="groups",
            coupled=("Mamba heads", "group"),
            shares=(0.5, 0.75),
            switch="mamba_heads",
            per_block=("per_block_heads", True),
        ),
        Width(
            axis="head_dim",
            score="head_channels",
            of=("heads", "head_dim"),
            label="Mamba head channels",
            candidates="parts",
            switch="vary",
        ),
        Width(
            axis="state",
            score="state_channels",
            of=("groups", "state"),
            label="Mamba state",
            each="groups",
            coupled=("state channels", "group"),
            candidates="parts",
            switch="vary",
        ),
    )

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
        tensors = [NORM, weight("in_proj.weight", packed, "hidden")]
        tensors.append(weight("conv.weight", convolved, "one", "kernel"))
        if self.conv_bias:
            tensors.append(weight("conv.bias", convolved))
        tensors += [weight("dt_bias", "heads"), weight("A_log", "heads"), weight("D", "heads")]
        tensors.append(weight("gated_norm.weight", "heads*head_dim"))
        tensors.append(weight("out_proj.weight", "hidden", "heads*head_dim"))
        if self.proj_bias:
            tensors += [weight("in_proj.bias", packed), weight("out_proj.bias", "hidden")]
        return tuple(tensors)

    @property
    def makers(self) -> tuple[Rows, ...]:
        """A channel: its row of x in in_proj, whose segments are z, x, B, C and dt."""
        return (Rows("in_proj", 1),)

    @property
    def points(self) -> dict[str, Rows]:
        """x before the convolution."""
        return {"before_convolution": Rows("in_proj", 1)}

    @property
    def reads(self) -> dict[str, Read]:
        """Channels as ``out_proj`` reads them; of the state B and C, whose products with x and with
        h are all that is written into an index and read from it.
        """
        return {
            "head_channels": Read(
                point="channels", weight="out_proj.weight", makers=(Rows("in_proj", 1),)
            ),
            "state_channels": Read(
                point="state", way="products", makers=(Rows("in_proj", 2), Rows("in_proj", 3))
            ),
        }

    def depends_on_length(self, length: int) -> bool:
        """Never."""
        return False

    def cache(self, context: int) -> Cache:
        """The SSM state, heads x head_dim x state, and kernel - 1 inputs of the convolution."""
        return Cache(
            state=self.inner * self.state, window=self.conv_channels * (self.conv_kernel - 1)
        )

    def flops(self, context: int) -> Flops:
        """The recurrence h = a h + (dt x) B, y = C h + D x (arXiv:2405.21060) is 5 operations a
        state element, less the first addition of y's sum, plus 3 for dt x and D x.

        The convolution is 2 x kernel a channel, less one addition where it has no bias. A chunked
        scan does more, as matrices.
        """
        scan = self.inner * (5 * self.state + 2)
        scan += self.conv_channels * (2 * self.conv_kernel - (not self.conv_bias))
        return Flops(matmul=self.product_flops(), scan=scan)

    def saved_values(self) -> int:
        """The stream, the normed input, in_proj's output, the scan's and the gated norm's
        (mamba-ssm's fused mixer).
        """
        return 2 * self.hidden + self.inner + self.conv_channels + self.heads + 2 * self.inner

    def backward_values(self) -> float:
        """mamba-ssm's: the convolution's output again, gradients of in_proj's output and of the
        scan's; states of each chunk in FP32 and BF16 and their gradients in FP32, gradients of B
        and C in FP32, three matrices of a chunk's tokens for each group in FP32.
        """
        projected = self.inner + self.conv_channels + self.heads
        states = 5 * self.inner * self.state / self.chunk_size
        shared = self.groups * (2 * 2 * self.state + 3 * 2 * self.chunk_size)
        return self.conv_channels + projected + self.inner + states + shared
