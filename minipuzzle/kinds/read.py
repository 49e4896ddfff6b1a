"""What an array of scores is measured by. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minipuzzle.kinds.axes import Rows


@dataclass(frozen=True, kw_only=True)
class Read:
    """``point``: the activation that is read (``minipuzzle.model.base``).

    ``way``: "columns" [b, s, c] are channels that the columns of the matrix ``weight`` read, scored
    by any estimator; "products" [b, s, 2 c] are pairs whose products add up, such as what a state
    is written and read with. The others read what one pass did with routed experts
    (``kernels.experts.Routed``): "experts" the experts themselves, "columns of experts" their own
    channels, which the stack ``weight`` reads, "choices" the first, second ... choice of a token;
    outputs of experts pass through ``weight`` where the first and the last have one. ``makers``:
    the rows that make what is scored, the axes of the array first among the axes of each; none
    where no weight belongs to an index alone.
    """

    point: str
    way: Literal["columns", "products", "experts", "columns of experts", "choices"] = "columns"
    weight: str = ""
    makers: tuple[Rows, ...] = ()
