"""What a scoring has found so far: named float64 arrays, which a killed run reads again, and the
scores they end in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipuzzle.arch import Architecture
from minipuzzle.importance.curves import Variant
from minipuzzle.importance.readings import Array
from minipuzzle.scores import Curve, Scores


class Found:
    """``arrays``: "hidden", "blocks", "layers", "<block>.<scores>" as a block's width names them,
    "<block>.curve.<axis>" [sizes, 2] of (size, error), and sums to which passes have still to add.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.step = len(architecture.layer_groups[0])
        self.arrays: dict[str, Array] = {"hidden": np.zeros(architecture.hidden)}

    def total(self, name: str, value: Array, *, last: bool) -> Array:
        """``value`` and what earlier passes have added under this name; kept for later ones but
        after the ``last``.
        """
        earlier = self.arrays.pop(name, None)
        value = value if earlier is None else earlier + value
        if not last:
            self.arrays[name] = value
        return value

    def widths(self, index: int) -> dict[str, Array]:
        """The scores of a block's widths that were added."""
        names = self.architecture.blocks[index].score_shapes
        found = {name: self.arrays.get(f"{index}.{name}") for name in names}
        return {name: values for name, values in found.items() if values is not None}

    def add_widths(self, index: int, widths: dict[str, Array], hidden: Array) -> None:
        """The scores of a block's widths, and its part of the hidden channels' [hidden]."""
        self.arrays |= {f"{index}.{name}": values for name, values in widths.items()}
        self.arrays["hidden"] = self.arrays["hidden"] + hidden

    def add_errors(self, variants: Sequence[Variant], errors: Array) -> None:
        """What each variant of the whole round does to the model's end."""
        arrays = self.arrays
        arrays["blocks"] = np.zeros(len(self.architecture.blocks))
        if self.step > 1:
            arrays["layers"] = np.zeros(len(self.architecture.layer_groups))
        for variant, error in zip(variants, errors, strict=True):
            if variant.layer:
                arrays["layers"][variant.block // self.step] = error
            elif variant.axis is None:
                arrays["blocks"][variant.block] = error
            elif variant.without is not None:
                block = self.architecture.blocks[variant.block]
                (score,) = {w.score for w in block.own_widths if w.axis == variant.axis}
                name = f"{variant.block}.{score}"
                arrays.setdefault(name, np.zeros(block.score_shapes[score]))
                arrays[name][variant.without] = error
            else:
                name = f"{variant.block}.curve.{variant.axis}"
                row = np.array([[variant.size, error]])
                arrays[name] = np.concatenate([arrays[name], row]) if name in arrays else row

    def least_removal(self, variants: Sequence[Variant], errors: Array) -> list[int]:
        """The blocks that stay or go together whose removal does least."""
        _, last = min(
            (error, v.block)
            for v, error in zip(variants, errors, strict=True)
            if v.axis is None and v.layer == (self.step > 1)
        )
        return list(range(last - self.step + 1, last + 1))

    def scores(self, meta: dict[str, Any]) -> Scores:
        """All of it; ``meta`` says how it was measured."""
        widths: dict[str, dict[int, Array]] = {}
        curves: dict[int, dict[str, Curve]] = {}
        for name, array in self.arrays.items():
            parts = name.split(".")
            if len(parts) == 2:
                widths.setdefault(parts[1], {})[int(parts[0])] = array
            elif len(parts) == 3:
                curve = array[:, 0].astype(np.int64), array[:, 1].copy()
                curves.setdefault(int(parts[0]), {})[parts[2]] = curve
        return Scores(
            blocks=self.arrays["blocks"],
            widths=widths,
            hidden=self.arrays["hidden"],
            layers=self.arrays.get("layers"),
            curves=curves,
            meta=meta,
        )
