"""Mixtures of experts: a router chooses some of many feed-forward experts for each token
(arXiv:1701.06538), with a shared one and a latent size as in Nemotron 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

from minipuzzle.kinds.axes import Rows, Weight, weight
from minipuzzle.kinds.base import NORM, Block
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.read import Read
from minipuzzle.kinds.width import Width


@dataclass(frozen=True, kw_only=True)
class Experts(Block):
    """sum of gate_j x expert_j(u) over the ``top_k`` experts that the router chooses for a token,
    plus a shared expert; u is the normed input, or its projection to ``latent`` channels.

    An expert, and the shared one, is down(f(up(u))), or where it is ``gated`` down(f(gate(u)) *
    up(u)) with gate and up in one matrix, gate first; f = ``activation``: "relu2" or "silu".

    ``router``: "sigmoid" of each logit, in FP32, with a correction that is added for the choice
    alone; "softmax" over all experts; "chosen_softmax" over the chosen ones. ``router_groups``
    groups of experts, of which ``router_groups_kept`` are chosen from. Gates are ``normalised`` to
    a sum of 1, and multiplied with ``scaling``. ``shared_width`` and ``latent`` 0: there is none.
    ``shared_gate``: the shared expert is multiplied with the sigmoid of a projection. ``bias``: of
    the latent projections and the shared expert.
    """

    kind: ClassVar[str] = "moe"
    letter: ClassVar[str] = "E"
    label: ClassVar[str] = "MoE"
    estimator: ClassVar[str] = "contribution"
    operation: ClassVar[str] = "experts"
    apart: ClassVar[tuple[str, ...]] = ("router.weight", "shared_gate.weight")
    routers: ClassVar[tuple[str, ...]] = ("router.weight",)
    widths: ClassVar[tuple[Width, ...]] = (
        Width(
            axis="experts",
            score="experts",
            of=("experts",),
            label="experts",
            within="router_groups",
            coupled=("experts", "router group"),
            shares=(0.5, 0.75),
            candidates="parts",
        ),
        Width(
            axis="expert_width",
            score="expert_channels",
            of=("experts", "expert_width"),
            label="expert channels",
            each="experts",
            coupled=("channels", "expert"),
            shares=(0.25, 0.5, 0.75),
            candidates="rounded",
            per_block=("uniform", False),
        ),
        Width(
            axis="shared_width",
            score="shared_channels",
            of=("shared_width",),
            label="shared expert channels",
            shares=(0.5, 0.75),
            candidates="rounded",
        ),
        Width(
            axis="latent",
            score="latent_channels",
            of=("latent",),
            label="latent channels",
            shares=(0.5, 0.75),
            candidates="rounded",
            switch="vary",
        ),
        Width(
            axis="top_k",
            score="choices",
            of=("top_k",),
            label="chosen experts a token",
            ordered=True,
            shares=(0.5, 0.75),
            per_block=("uniform", False),
        ),
    )

    experts: int
    top_k: int
    expert_width: int
    shared_width: int = 0
    latent: int = 0
    router: str = "sigmoid"
    router_groups: int = 1
    router_groups_kept: int = 1
    normalised: bool = True
    scaling: float = 1.0
    gated: bool = False
    activation: str = "relu2"
    shared_gate: bool = False
    bias: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis that it has."""
        found = {
            "hidden": self.hidden,
            "experts": self.experts,
            "top_k": self.top_k,
            "expert_width": self.expert_width,
            "router_groups": self.router_groups,
            "one": 1,
        }
        if self.shared_width:
            found["shared_width"] = self.shared_width
        if self.latent:
            found["latent"] = self.latent
        return found

    @property
    def inner(self) -> str:
        """The axis that experts read and write."""
        return "latent" if self.latent else "hidden"

    @property
    def buffers(self) -> tuple[str, ...]:
        """The correction: training of these models balances the experts by it, no gradient does."""
        return ("router.correction",) if self.router == "sigmoid" else ()

    @property
    def stacks(self) -> dict[str, tuple[int, int, int]]:
        """The experts' matrices."""
        return {
            w.name: (shape[0], shape[1], shape[2])
            for w in self.weights
            if len(shape := w.shape(self.sizes)) == 3
        }

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes; a stack is [experts, rows, columns]."""
        up = "gate_up_proj" if self.gated else "up_proj"
        tensors = [NORM, weight("router.weight", "experts", "hidden")]
        tensors += [weight(name, "experts") for name in self.buffers]
        rows = "expert_width + expert_width" if self.gated else "expert_width"
        tensors.append(weight(f"experts.{up}", "experts", rows, self.inner))
        tensors.append(weight("experts.down_proj", "experts", self.inner, "expert_width"))
        tensors += [weight(f"{name}.weight", *dims) for name, dims in self._beside().items()]
        if self.bias:
            named = self._beside().items()
            tensors += [
                weight(f"{name}.bias", dims[0]) for name, dims in named if name != "shared_gate"
            ]
        return tuple(tensors)

    def _beside(self) -> dict[str, tuple[str, str]]:
        """The matrices beside router and experts, by name: (rows, columns)."""
        found: dict[str, tuple[str, str]] = {}
        if self.latent:
            found["latent_in_proj"] = ("latent", "hidden")
            found["latent_out_proj"] = ("hidden", "latent")
        if self.shared_width:
            up = "shared_gate_up_proj" if self.gated else "shared_up_proj"
            rows = "shared_width + shared_width" if self.gated else "shared_width"
            found[up] = (rows, "hidden")
            found["shared_down_proj"] = ("hidden", "shared_width")
            if self.shared_gate:
                found["shared_gate"] = ("one", "hidden")
        return found

    @property
    def outputs(self) -> tuple[str, ...]:
        """What writes into the stream: the experts, or the way out of the latent size; the shared
        expert.
        """
        routed = "latent_out_proj.weight" if self.latent else "experts.down_proj"
        return (routed, "shared_down_proj.weight") if self.shared_width else (routed,)

    @property
    def points(self) -> dict[str, Rows]:
        """None: its points are of its own (``minipuzzle.model.experts``)."""
        return {}

    @property
    def reads(self) -> dict[str, Read]:
        """Experts, their channels and choices by what a pass does with them; channels beside them
        as what reads those.
        """
        halves = range(2 if self.gated else 1)
        up = "experts.gate_up_proj" if self.gated else "experts.up_proj"
        made = tuple(Rows(up, half) for half in halves)
        out = "latent_out_proj.weight" if self.latent else ""
        found = {
            "experts": Read(point="routed", way="experts", weight=out, makers=made),
            "expert_channels": Read(
                point="routed", way="columns of experts", weight="experts.down_proj", makers=made
            ),
        }
        if self.shared_width:
            shared = "shared_gate_up_proj" if self.gated else "shared_up_proj"
            found["shared_channels"] = Read(
                point="shared_channels",
                weight="shared_down_proj.weight",
                makers=tuple(Rows(shared, half) for half in halves),
            )
        if self.latent:
            found["latent_channels"] = Read(
                point="latent_channels", weight=out, makers=(Rows("latent_in_proj"),)
            )
        return {**found, "choices": Read(point="routed", way="choices", weight=out)}

    @property
    def expert_parameters(self) -> int:
        """The number of parameters of one routed expert."""
        return sum(rows * columns for _, rows, columns in self.stacks.values())

    @property
    def active_parameters(self) -> int:
        """All but the experts that are not chosen."""
        return self.parameters - (self.experts - self.top_k) * self.expert_parameters

    def read_parameters(self, tokens: float) -> float:
        """All but the experts that no token chooses, where choices are uniform and independent: the
        expected number of distinct ones is E (1 - (1 - k / E)^t). Real ones are skewed: it is an
        upper estimate.
        """
        unread = self.experts * (1 - self.top_k / self.experts) ** tokens
        return self.parameters - unread * self.expert_parameters

    def fault(self) -> tuple[str, str] | None:
        """More choices than experts, or than the chosen groups have; groups of unequal size."""
        groups, kept = self.router_groups, self.router_groups_kept
        said = f"{self.experts} experts in {groups} groups, of which {kept} are chosen from"
        if self.experts % groups or kept > groups:
            return said, "groups of equal size, and no more chosen groups than there are"
        if groups > 1 and self.experts // groups < 2:
            return said, "at least 2 experts in each group, whose two best rank it"
        if self.top_k > self.experts // groups * kept:
            what = "experts" if groups == 1 else "experts of the chosen groups"
            return (
                f"{self.top_k} chosen experts a token",
                f"at most {self.experts // groups * kept}, the {what}",
            )
        return None

    def depends_on_length(self, length: int) -> bool:
        """Never."""
        return False

    def cache(self, context: int) -> Cache:
        """Nothing."""
        return Cache()

    def flops(self, context: int) -> Flops:
        """The router, the chosen experts, and what every token passes."""
        routed = 2 * self.top_k * self.expert_parameters
        router = 2 * self.experts * self.hidden
        return Flops(matmul=routed + router + self.product_flops() + 2 * self.hidden * self._gate())

    def _gate(self) -> int:
        return int(self.shared_gate and self.shared_width > 0)

    def saved_values(self) -> int:
        """The stream, the normed input, the latent ones; the router's scores in FP32; of each
        choice what up and gate give, four integers of 64 bits and three numbers in FP32; of the
        shared expert channels before and after the activation (gated: both factors too).
        """
        routed = self.top_k * ((1 + self.gated) * self.expert_width + 4 * 4 + 2 * 3)
        shared = (4 if self.gated else 2) * self.shared_width + self._gate() * self.hidden
        return 2 * (self.hidden + self.latent + self.experts) + routed + shared

    def backward_values(self) -> float:
        """Gradients of what each choice and the shared expert made, and of each choice's input."""
        inner = self.latent or self.hidden
        routed = self.top_k * ((2 + self.gated) * self.expert_width + inner)
        return routed + (2 + self.gated) * self.shared_width

    def adapter_values(self) -> int:
        """Of each choice the expert's input and output, and channels after the activation (gated:
        both factors).
        """
        inner = self.latent or self.hidden
        return self.top_k * (2 * inner + (1 + self.gated) * self.expert_width)

    def sent_values(self, together: int) -> float:
        """What experts read, once to each process that has a chosen one, its own among them: the
        expected number where all choices are as frequent.
        """
        each, count, k = -(-self.experts // together), self.experts, self.top_k
        shares = [min(each, max(0, count - first * each)) for first in range(together)]
        reached = sum(1 - comb(count - share, k) / comb(count, k) for share in shares)
        return reached * (self.latent or self.hidden)
