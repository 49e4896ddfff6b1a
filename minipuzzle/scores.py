"""How much each part of a parent matters: what scoring writes and search reads. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from minipuzzle.artifacts import parse_json, plain_json, read_arrays, write_atomic
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS, Block, Width

SCHEMA = 2
Array = NDArray[np.float64]
Curve = tuple[NDArray[np.int64], Array]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How much each part of a parent matters; higher is kept. All values float64.

    ``blocks`` [n_blocks]: loss increase from removing block i alone. ``widths`` score name -> block
    -> array: what ranks the block's channels or heads, under the names and with the axes that the
    block's kind declares (``Width.score``, ``Width.of``). ``layers`` [n_layers]: loss increase from
    removing layer i, where a layer is several blocks that stay or go together. ``hidden`` [hidden]:
    hidden channels of the whole model. ``curves`` block -> axis (``Width.axis``) -> (sizes int64
    ascending, errors): loss increase, as in ``blocks``, from narrowing block i alone to a size; the
    whole size does none. ``meta`` says how they were measured.
    """

    blocks: Array
    widths: dict[str, dict[int, Array]]
    hidden: Array | None = None
    layers: Array | None = None
    curves: dict[int, dict[str, Curve]] = field(default_factory=dict)
    meta: dict[str, Any]
    _lost: dict[tuple[int, str], Array] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def lost(self, index: int, block: Block, width: Width) -> Array:
        """``Width.lost`` of a block by its scores, made once: it sorts them, millions where each
        expert has channels of its own.
        """
        found = self._lost.get((index, width.axis))
        if found is None:
            found = width.lost(block, self.widths[width.score][index])
            self._lost[index, width.axis] = found
        return found

    def of(self, block: int) -> dict[str, Array]:
        """The width scores of a block, by their names."""
        return {name: found[block] for name, found in self.widths.items() if block in found}

    def save(self, path: Path) -> None:
        """Write a safetensors file; its header's ``minipuzzle`` entry says what each tensor is."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray] = {"blocks": self.blocks}
        tensors |= {
            f"blocks.{i}.{name}": values
            for name, found in self.widths.items()
            for i, values in found.items()
        }
        tensors |= {
            name: value
            for name in ("hidden", "layers")
            if (value := getattr(self, name)) is not None
        }
        for i, axes in self.curves.items():
            for axis, (sizes, errors) in axes.items():
                tensors |= {
                    f"blocks.{i}.curve.{axis}.sizes": sizes,
                    f"blocks.{i}.curve.{axis}.errors": errors,
                }
        about = {
            "schema": SCHEMA,
            "blocks": "[n_blocks] loss increase from removing one block",
            "layers": "[n_layers] loss increase from removing one layer of several blocks",
            **{
                f"blocks.N.{name}": f"[{', '.join(width.of)}] ranks {width.label}"
                for name, width in declared().items()
                if name in self.widths
            },
            "hidden": "[hidden] hidden channel score",
            "blocks.N.curve.AXIS.sizes": "sizes of AXIS that block N was narrowed to, ascending",
            "blocks.N.curve.AXIS.errors": (
                "loss increase from narrowing block N alone to each of those sizes"
            ),
            "meta": self.meta,
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        write_atomic(
            path, save(arrays, metadata={"minipuzzle": json.dumps(about, default=plain_json)})
        )

    @staticmethod
    def load(path: Path) -> Scores:
        """Read what ``save`` wrote. Raises: UserError where it is missing or of another schema."""
        again = "Run minipuzzle score in this run directory; delete the file first if it is kept."
        if not path.exists():
            raise UserError(
                "There are no scores here.",
                got=path,
                allowed="a scores file written by minipuzzle score",
                next="Run minipuzzle score first, in the same run directory.",
            )
        metadata, tensors = read_arrays(path, next=again)
        about = parse_json(
            metadata.get("minipuzzle", "{}"), _About, what=f"The header of {path}", next=again
        )
        if about["schema"] != SCHEMA:
            raise UserError(
                f"{path} has another schema.", got=about["schema"], allowed=SCHEMA, next=again
            )
        named = {tuple(name.split(".")): array for name, array in tensors.items()}
        if fault := _fault_of_scores(named):
            raise UserError(
                f"{path} does not hold scores.",
                got=fault,
                allowed="what minipuzzle score wrote",
                next=again,
            )
        widths: dict[str, dict[int, Array]] = {}
        curves: dict[int, dict[str, Curve]] = {}
        for n, values in named.items():
            if len(n) == 3:
                widths.setdefault(n[2], {})[int(n[1])] = values
            elif n[2:3] == ("curve",) and n[4] == "sizes":
                curves.setdefault(int(n[1]), {})[n[3]] = (values, named[*n[:4], "errors"])
        return Scores(
            blocks=tensors["blocks"],
            widths=widths,
            hidden=tensors.get("hidden"),
            layers=tensors.get("layers"),
            curves=curves,
            meta=about["meta"],
        )


def declared() -> dict[str, Width]:
    """Every name of width scores, and the first width of any kind that they rank."""
    found: dict[str, Width] = {}
    for kind in KINDS.values():
        for width in kind.widths:
            found.setdefault(width.score, width)
    return found


class _About(TypedDict):
    schema: int
    meta: dict[str, Any]


def _fault_of_scores(named: dict[tuple[str, ...], NDArray]) -> str:
    """What is wrong with the tensors of a scores file, by the parts of their names; empty for
    nothing.
    """
    if ("blocks",) not in named:
        return "no tensor blocks"
    count = len(named["blocks",]) if named["blocks",].ndim == 1 else 0
    widths = declared()
    for name, array in named.items():
        known = name in (("blocks",), ("hidden",), ("layers",))
        if not known and (
            len(name) < 3 or name[0] != "blocks" or name[1] not in map(str, range(count))
        ):
            return f"a tensor {'.'.join(name)}, of a model of {count} blocks"
        if not known and not (
            (len(name) == 3 and name[2] in widths) or (name[2] == "curve" and len(name) == 5)
        ):
            return f"a tensor {'.'.join(name)}"
        sizes = name[-1] == "sizes" and name[2:3] == ("curve",)
        dimensions = len(widths[name[2]].of) if len(name) == 3 else 1
        if array.dtype != (np.int64 if sizes else np.float64) or array.ndim != dimensions:
            return f"{'.'.join(name)} of {array.dtype}, {array.ndim} dimensions"
        if array.size == 0 or not np.isfinite(array).all():
            return f"{'.'.join(name)} is empty or not finite"
        if sizes and (
            len(named.get((*name[:4], "errors"), ())) != len(array) or (np.diff(array) <= 0).any()
        ):
            return f"{'.'.join(name)} not ascending, or not one for each error"
    return ""
