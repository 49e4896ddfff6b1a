"""Kinds with two widths and with none, which no file of minipuzzle knows. The test that searches
over them registers them.
"""

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.kinds import KINDS, Block, Width, weight
from minipuzzle.kinds.base import NORM
from minipuzzle.kinds.cost import Cache, Flops


@dataclass(frozen=True, kw_only=True)
class Lanes(Block):
    """``lanes`` in ``banks``, each of ``depth`` channels: two axes that the search sizes."""

    kind: ClassVar[str] = "twofold"
    letter: ClassVar[str] = "T"
    label: ClassVar[str] = "twofold"
    output: ClassVar[str] = "down"
    widths: ClassVar[tuple[Width, ...]] = (
        Width(
            axis="lanes",
            score="lanes",
            of=("lanes",),
            label="lanes",
            within="banks",
            coupled=("lanes", "bank"),
        ),
        Width(
            axis="depth",
            score="depths",
            of=("lanes", "depth"),
            label="depths",
            candidates="rounded",
            per_block=("uniform", False),
        ),
    )

    lanes: int = 6
    banks: int = 2
    depth: int = 8

    @property
    def sizes(self):
        return {
            "hidden": self.hidden,
            "lanes": self.lanes,
            "banks": self.banks,
            "depth": self.depth,
        }

    @property
    def weights(self):
        up, down = weight("up.weight", "lanes*depth", "hidden"), weight("gate", "lanes")
        return (NORM, up, down, weight("down.weight", "hidden", "lanes*depth"))

    def cache(self, context):
        return Cache()

    def flops(self, context):
        return Flops(matmul=self.product_flops())


@dataclass(frozen=True, kw_only=True)
class Still(Block):
    """Nothing gets narrower: kept whole or dropped."""

    kind: ClassVar[str] = "still"
    letter: ClassVar[str] = "S"
    label: ClassVar[str] = "still"
    output: ClassVar[str] = "mix"
    min_keep: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.0)
    widths: ClassVar[tuple[Width, ...]] = ()

    @property
    def sizes(self):
        return {"hidden": self.hidden}

    @property
    def weights(self):
        return (NORM, weight("mix.weight", "hidden", "hidden"))

    def cache(self, context):
        return Cache()

    def flops(self, context):
        return Flops(matmul=self.product_flops())


@dataclass(frozen=True, kw_only=True)
class Pool(Block):
    """``members`` matrices of which each token is computed with ``picked``; an axis has no tensor,
    and two contradict each other.
    """

    kind: ClassVar[str] = "pool"
    letter: ClassVar[str] = "P"
    label: ClassVar[str] = "pool"
    output: ClassVar[str] = "down.weight"
    widths: ClassVar[tuple[Width, ...]] = (
        Width(axis="members", score="members", of=("members",), label="members", switch="vary"),
        Width(
            axis="picked",
            score="picks",
            of=("picked",),
            label="picked members",
            ordered=True,
            switch="vary",
            per_block=("uniform", False),
        ),
        Width(
            axis="breadth",
            score="breadth",
            of=("breadth",),
            label="breadth",
            per_block=("uniform", False),
        ),
    )

    members: int = 6
    picked: int = 2
    breadth: int = 4

    @property
    def sizes(self):
        named = ("hidden", "members", "picked", "breadth")
        return {name: getattr(self, name) for name in named}

    @property
    def weights(self):
        stack = weight("stack", "members", "breadth", "hidden")
        return (NORM, weight("router.weight", "members", "hidden"), stack)

    @property
    def active_parameters(self):
        return self.parameters - (self.members - self.picked) * self.breadth * self.hidden

    def read_parameters(self, tokens):
        idle = self.members * (1 - self.picked / self.members) ** tokens
        return self.parameters - idle * self.breadth * self.hidden

    def fault(self):
        if self.picked > self.members:
            return f"{self.picked} picked", f"at most {self.members}"
        return None

    def cache(self, context):
        return Cache()

    def flops(self, context):
        return Flops(matmul=2 * (self.picked * self.breadth + self.members) * self.hidden)


for _kind in (Lanes, Still, Pool):
    KINDS.pop(_kind.kind)
