"""Which adapter, as a recipe and the command line say it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.settings.bounds import settle
from minipuzzle.settings.declare import setting

LARGEST_RANK = 1 << 16
"""Beyond every width of a model; more than a matrix has ranks adds nothing."""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What is trained beside frozen weights: ``kind`` lora, tl5, tl6, vera or a mask
    (``adapters.parse_mask``); "" trains all weights instead. ``alpha`` 0 is the rank; ``few``
    accepts a target under 10 % of the blocks.
    """

    SECTION: ClassVar[str] = "adapter"
    PANEL: ClassVar[str] = "Adapter"

    kind: str = setting(
        "",
        "Train only an adapter: lora, tl5, tl6, vera, or a mask such as tied:A,u,v or"
        " layer:A,B,u,v.",
        unit="adapter",
        flag="adapter",
        shown="none: all weights",
        common=True,
    )
    rank: int = setting(8, "LoRA rank.", within=(1, LARGEST_RANK), common=True)
    alpha: float = setting(
        0.0, "Scale of the adapter: alpha / rank.", shown="the rank", within=(0.0, 1e30)
    )
    target: str = setting(
        "all",
        "Projections with an adapter: in, out, up, down, q, k, v, o, qkv, a kind of block, or all.",
        common=True,
    )
    few: bool = setting(False, "Accept a target that is in under 10 % of the blocks.")

    def __post_init__(self) -> None:
        settle(self)
