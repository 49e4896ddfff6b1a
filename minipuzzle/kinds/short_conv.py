"""Gated short convolutions, as in LFM2 (arXiv:2511.23404): out(C * conv(B * x)), with B, C and x
packed in one projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.kinds.axes import Rows, Weight, weight
from minipuzzle.kinds.base import NORM, Block
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.width import Width


@dataclass(frozen=True, kw_only=True)
class ShortConv(Block):
    """Channel c of the convolution, causal and its own, reads B_c x_c of ``conv_kernel`` tokens and
    is multiplied with C_c; ``bias`` that of both projections and of the convolution.
    """

    kind: ClassVar[str] = "short_conv"
    letter: ClassVar[str] = "C"
    label: ClassVar[str] = "short convolution"
    output: ClassVar[str] = "out_proj"
    estimator: ClassVar[str] = "contribution"
    apart: ClassVar[tuple[str, ...]] = ("conv.weight",)
    widths: ClassVar[tuple[Width, ...]] = (
        Width(
            axis="conv_channels",
            score="conv_channels",
            of=("conv_channels",),
            label="convolution channels",
            shares=(0.5, 0.75),
            candidates="rounded",
            switch="vary",
            per_block=("uniform", False),
        ),
    )

    conv_channels: int
    conv_kernel: int = 3
    bias: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {
            "hidden": self.hidden,
            "conv_channels": self.conv_channels,
            "kernel": self.conv_kernel,
            "one": 1,
        }

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        packed = "conv_channels + conv_channels + conv_channels"  # B, C, x
        tensors = [NORM, weight("in_proj.weight", packed, "hidden")]
        tensors.append(weight("conv.weight", "conv_channels", "one", "kernel"))
        tensors.append(weight("out_proj.weight", "hidden", "conv_channels"))
        if self.bias:
            tensors += [weight("in_proj.bias", packed), weight("conv.bias", "conv_channels")]
            tensors.append(weight("out_proj.bias", "hidden"))
        return tuple(tensors)

    @property
    def makers(self) -> tuple[Rows, ...]:
        """A channel: its rows of B, of C and of x."""
        return tuple(Rows("in_proj", segment) for segment in range(3))

    @property
    def points(self) -> dict[str, Rows]:
        """None: what is before the convolution is a product of two."""
        return {}

    def depends_on_length(self, length: int) -> bool:
        """Never."""
        return False

    def cache(self, context: int) -> Cache:
        """kernel - 1 inputs of the convolution."""
        return Cache(window=self.conv_channels * (self.conv_kernel - 1))

    def flops(self, context: int) -> Flops:
        """Its matrices; a channel 2 x kernel for the convolution, less one addition where it has no
        bias, and the products with B and with C.
        """
        taps = 2 * self.conv_kernel - (not self.bias)
        return Flops(matmul=self.product_flops(), scan=self.conv_channels * (taps + 2))

    def saved_values(self) -> int:
        """The stream, the normed input, B, C and x, the convolution's input and output, and what
        out_proj reads.
        """
        return 2 * self.hidden + 6 * self.conv_channels

    def backward_values(self) -> float:
        """Gradients of out_proj's input, of the convolution's two ends, of B, C and x."""
        return 6 * self.conv_channels
