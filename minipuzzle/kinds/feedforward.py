"""Feed-forward blocks: squared ReLU as in Nemotron-H (arXiv:2504.03624), or gated
(arXiv:2002.05202).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.kinds.axes import Rows, Weight, weight
from minipuzzle.kinds.base import NORM, Block
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.width import Width


@dataclass(frozen=True, kw_only=True)
class FeedForward(Block):
    """down(f(up(x))), or where it is ``gated`` down(f(gate(x)) * up(x)), with f = ``activation``:
    "relu2" or "silu".

    A channel of a gated one has a row in gate and one in up. ``packed``: both lie in one matrix,
    gate first.
    """

    kind: ClassVar[str] = "mlp"
    letter: ClassVar[str] = "-"
    label: ClassVar[str] = "FFN"
    output: ClassVar[str] = "down_proj"
    estimator: ClassVar[str] = "flap"
    widths: ClassVar[tuple[Width, ...]] = (
        Width(
            axis="intermediate",
            score="intermediate",
            of=("intermediate",),
            label="FFN channels",
            shares=(0.25, 0.5, 0.75),
            candidates="rounded",
            per_block=("uniform", False),
        ),
    )

    intermediate: int
    bias: bool = False
    gated: bool = False
    packed: bool = False
    activation: str = "relu2"

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {"hidden": self.hidden, "intermediate": self.intermediate}

    @property
    def inputs(self) -> dict[str, str]:
        """The projections that read the stream, by name, and their rows."""
        if self.packed:
            return {"gate_up_proj": "intermediate + intermediate"}
        up = {"up_proj": "intermediate"}
        return {"gate_proj": "intermediate", **up} if self.gated else up

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        inputs = self.inputs.items()
        tensors = [NORM, *(weight(f"{name}.weight", rows, "hidden") for name, rows in inputs)]
        tensors.append(weight("down_proj.weight", "hidden", "intermediate"))
        if self.bias:
            tensors += [weight(f"{name}.bias", rows) for name, rows in inputs]
            tensors.append(weight("down_proj.bias", "hidden"))
        return tuple(tensors)

    @property
    def makers(self) -> tuple[Rows, ...]:
        """A channel: its row of up, and where there is a gate that of the gate before it."""
        if self.packed:
            return Rows("gate_up_proj", 0), Rows("gate_up_proj", 1)
        return tuple(Rows(name) for name in self.inputs)

    @property
    def points(self) -> dict[str, Rows]:
        """What enters the activation; where there is a gate, what it is multiplied with."""
        return {"before_activation": self.makers[-1]}

    def depends_on_length(self, length: int) -> bool:
        """Never."""
        return False

    def cache(self, context: int) -> Cache:
        """Nothing."""
        return Cache()

    def flops(self, context: int) -> Flops:
        """Its matrices."""
        return Flops(matmul=self.product_flops())

    def saved_values(self) -> int:
        """The stream, the normed input, and channels before and after the activation (gated: both
        factors too).
        """
        return 2 * self.hidden + (4 if self.gated else 2) * self.intermediate

    def backward_values(self) -> float:
        """Gradients of channels after and before the activation (gated: of both factors)."""
        return (3 if self.gated else 2) * self.intermediate
