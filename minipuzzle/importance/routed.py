"""What is kept of routed experts: by expert, by channel of each, by choice of a token.

What an expert adds is gate x down(channels) = down(gate x channels): channels are scored as an
FFN's that hold gate x channels, of the expert's own tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from minipuzzle.importance.readings import Array, Reading
from minipuzzle.model.routed import Routed
from minipuzzle.shapes import Float

ROWS = 4096
"""Rows that are read at once, so that FP32 copies stay small."""
FEWEST = 2
"""Rows of an expert that a variance needs; with fewer its channels score 0."""


def share(sums: Array, counts: Array) -> Array:
    """``sums`` / ``counts``, 0 where nothing was counted."""
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


def output_norms(
    outputs: Float[Tensor, "rows d"], weight: Float[Tensor, "o d"] | None
) -> Float[Tensor, " rows"]:
    """[rows] FP32: L2 norms of outputs, or of ``weight`` times them."""
    if weight is None:
        return torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float32)
    # ||W f||^2 = f^T (W^T W) f
    wide = weight.detach().float()
    gram = wide.T @ wide  # [d, d]
    parts = [part.float() for part in outputs.split(ROWS)]
    squares = [((part @ gram) * part).sum(dim=-1) for part in parts]
    return torch.cat(squares).clamp(min=0).sqrt()


class RoutedReading(Reading):
    """A reading of ``Routed`` in place of an activation."""

    def reduce(self, x: Routed) -> dict[str, Tensor]:  # type: ignore[override]
        raise NotImplementedError


class Totals(RoutedReading):
    """``sums``: "rows" [E] of each expert, "norms" [E] of their outputs, "gated" [E] the same times
    their gates, "tokens". ``weight``: outputs pass through it.
    """

    def __init__(
        self, count: int, weight: Tensor | None, compute: Callable[[Mapping[str, Array]], Array]
    ) -> None:
        self.weight, self.compute = weight, compute
        self.sums = {name: np.zeros(count) for name in ("rows", "norms", "gated")}
        self.sums["tokens"] = np.zeros(())

    def reduce(self, x: Routed) -> dict[str, Tensor]:  # type: ignore[override]
        norms = output_norms(x.outputs, self.weight).double()  # [rows]
        count = len(self.sums["rows"])

        def summed(values: Tensor) -> Tensor:
            return values.new_zeros(count).index_add_(0, x.experts, values)

        return {
            "rows": summed(torch.ones_like(norms)),
            "norms": summed(norms),
            "gated": summed(norms * x.gates),
            "tokens": torch.tensor(float(len(x.places)), dtype=torch.float64),
        }

    def scores(self) -> Array:
        return self.compute(self.sums)


class Choices(RoutedReading):
    """Mean over tokens of gate times output norm of the choice with the r-th largest gate, r = 1
    ... ``count``.
    """

    def __init__(self, count: int, weight: Tensor | None) -> None:
        self.weight = weight
        self.sums = {"added": np.zeros(count), "tokens": np.zeros(())}

    def reduce(self, x: Routed) -> dict[str, Tensor]:  # type: ignore[override]
        gates = x.gates[x.places]  # [n, k]
        added = (output_norms(x.outputs, self.weight).double() * x.gates)[x.places]  # [n, k]
        largest = gates.argsort(dim=-1, descending=True, stable=True)
        return {
            "added": added.gather(1, largest).sum(dim=0),  # [k]
            "tokens": torch.tensor(float(len(gates)), dtype=torch.float64),
        }

    def scores(self) -> Array:
        return share(self.sums["added"], self.sums["tokens"])


class OfExperts(RoutedReading):
    """A reading of each expert's channels, ``each``, on its own rows times their gates; every row
    is a sequence of its own. ``sums`` of all of them: [E, ...] each, and the "rows" [E].
    """

    def __init__(self, each: Sequence[Reading]) -> None:
        self.each = each
        self.sums = {
            name: np.stack([reading.sums[name] for reading in each]) for name in each[0].sums
        }
        self.sums["rows"] = np.zeros(len(each))

    def reduce(self, x: Routed) -> dict[str, Tensor]:  # type: ignore[override]
        device = x.channels.device
        found = {
            name: torch.zeros(sums.shape, dtype=torch.float64, device=device)
            for name, sums in self.sums.items()
        }
        for number, start, stop in _pieces(x):
            gated = x.channels[start:stop].float() * x.gates[start:stop, None]  # [rows, c]
            for name, value in self.each[number].reduce(gated[:, None]).items():
                found[name][number] += value
            found["rows"][number] += stop - start
        return found

    def scores(self) -> Array:
        scores = []
        for number, reading in enumerate(self.each):
            reading.sums = {name: self.sums[name][number] for name in reading.sums}
            enough = self.sums["rows"][number] >= FEWEST
            with np.errstate(invalid="ignore", divide="ignore"):
                found = reading.scores()
            scores.append(found if enough else np.zeros_like(found))
        return np.stack(scores)


def routed_derivatives(
    x: Routed, rows: Float[Tensor, "rows c"], batch: int, way: str, count: int
) -> Tensor:
    """[batch, count] float64: what ``rows``, activation times gradient of each row, are of each
    sample and index, as ``Read.way`` says. Outputs and channels are linear in what experts add.
    """
    tokens, choices = x.places.shape
    of_token = rows.double().sum(dim=-1)[x.places]  # [n, k]
    if way == "choices":
        largest = x.gates[x.places].argsort(dim=-1, descending=True, stable=True)
        return of_token.gather(1, largest).unflatten(0, (batch, -1)).sum(dim=1)
    token = torch.empty_like(x.experts)
    token[x.places] = torch.arange(tokens, device=rows.device)[:, None].expand(-1, choices)
    experts = len(x.offsets) - 1
    place = token // (tokens // batch) * experts + x.experts  # [rows], sample x expert
    values = rows.double() if way == "columns of experts" else rows.double().sum(-1, keepdim=True)
    found = values.new_zeros(batch * experts, values.shape[1]).index_add_(0, place, values)
    return found.view(batch, count)


def _pieces(x: Routed) -> Iterator[tuple[int, int, int]]:
    """(expert, first row, last + 1) of at most ``ROWS`` rows each. Of tensors without values, one
    piece, which is as large as any.
    """
    if x.offsets.is_meta:
        yield 0, 0, min(ROWS, len(x.channels))
        return
    offsets = x.offsets.tolist()
    for number, (first, last) in enumerate(pairwise(offsets)):
        for start in range(first, last, ROWS):
            yield number, start, min(start + ROWS, last)
