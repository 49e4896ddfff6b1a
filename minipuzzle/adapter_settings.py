"""Which adapter, as a recipe and the command line say it. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What is trained beside frozen weights: ``kind`` lora, tl5, tl6, vera or a mask (``adapters.parse_mask``); "" trains
    all weights instead. ``alpha`` 0 is the rank; ``few`` accepts a target under 10 % of the blocks."""

    kind: str = ""
    rank: int = 8
    alpha: float = 0.0
    target: str = "all"
    few: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 0:
            raise UserError(
                "This adapter cannot be made.", got=f"rank {self.rank}, alpha {self.alpha}",
                allowed="a rank of at least 1, an alpha of at least 0", next="Change --rank or --alpha.",
            )  # fmt: skip
