"""Our file of a trained adapter: one safetensors file, shared tensors once, and a JSON header that
says what ties to what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minipuzzle.adapters.plan import AdapterPlan, Group, Site, parse_mask
from minipuzzle.arch import Architecture
from minipuzzle.artifacts import parse_json, write_atomic
from minipuzzle.checked import Count, Positive, require
from minipuzzle.errors import UserError

FORMAT = "minipuzzle-adapter-1"
NAME = "adapter.safetensors"


class _Site(TypedDict):
    block: Count
    projections: list[str]
    rows: list[Positive]
    stack: NotRequired[Positive]


class _Group(TypedDict):
    name: str
    d_in: Positive
    d_out: Positive
    rank: Positive
    alpha: int | float
    sites: list[_Site]


class _Header(TypedDict):
    format: str
    adapter: str
    base: str | None
    groups: list[_Group]


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The ordinary LoRA of the projection ``module``, whose ``weight`` is W + (alpha/rank) b a, a
    [rank, d_in], b [d_out, rank]; or of a stack, with a first axis of its matrices.
    """

    module: str
    weight: str
    rank: int
    alpha: float
    a: Tensor
    b: Tensor


@dataclass(frozen=True, kw_only=True)
class SavedAdapter:
    """A plan with the values of its factors ("group.factor" -> tensor) and the fingerprint of the
    checkpoint it was trained on (None: unknown, as for adapters of PEFT).
    """

    plan: AdapterPlan
    tensors: dict[str, Tensor]
    base: str | None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the values and what they mean."""
        digest = hashlib.sha256(json.dumps(_header(self), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(
                name.encode() + tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()[:16]

    def loras(self) -> Iterator[Lora]:
        """What each adapted projection amounts to, exactly: a = diag(u) A, b = diag(v) B, in the
        dtype of the factors.

        Source: arXiv:2311.09578; a diagonal matrix between two factors belongs to either of them.
        """
        for group in self.plan.groups:
            for site, layers in group.placed():
                a, b = (
                    self._scaled(group.name, *names, site, layers)
                    for names in (("A", "u"), ("B", "v"))
                )
                for weight, rows in site.weights():
                    yield Lora(
                        module=weight.removesuffix(".weight"),
                        weight=weight,
                        rank=group.rank,
                        alpha=group.alpha,
                        a=a,
                        b=b[..., rows, :].contiguous(),
                    )

    def check(self, architecture: Architecture) -> None:
        """Raises: UserError where the model has not the projections that the adapter is for."""
        for group in self.plan.groups:
            for site in group.sites:
                found: dict[str, tuple[int, ...]] = {}
                if site.block < len(architecture.blocks):
                    block = architecture.blocks[site.block]
                    found = {**block.projections, **block.stacks}
                for name, rows in zip(site.projections, site.rows, strict=True):
                    shape = (site.stack,) * (site.stack > 0) + (rows, group.d_in)
                    if found.get(name) != shape:
                        raise UserError(
                            f"The adapter is for another model: blocks.{site.block}.{name}.",
                            got=found.get(name),
                            allowed=f"a projection of shape {shape}",
                            next="Name the checkpoint that the adapter was trained on.",
                        )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}
        write_atomic(path, save(tensors, metadata={"minipuzzle": json.dumps(_header(self))}))

    def _scaled(self, group: str, factor: str, scale: str, site: Site, layers: slice) -> Tensor:
        values = self.tensors[f"{group}.{factor}"]
        scales = self.tensors.get(f"{group}.{scale}")
        of = layers if site.stack else layers.start
        if values.ndim == 3:
            values = values[of]
        elif site.stack:
            values = values.expand(site.stack, -1, -1)
        return values if scales is None else scales[of][..., None] * values


def read_adapter(path: Path) -> SavedAdapter:
    """The adapter in a file of ours, or in a folder that holds one.

    Raises: UserError where there is none, it is damaged, or a factor is missing, of another shape
    or not trained as the header has it.
    """
    file = path / NAME if path.is_dir() else path
    again = "Name the run's adapter.safetensors, or a folder of PEFT."
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get("minipuzzle", "{}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} is not an adapter of ours.",
            got=error,
            allowed=f"a file that minipuzzle adapt wrote ({FORMAT})",
            next=again,
        ) from error
    header = parse_json(text, what=f"{file}: its header", next=again)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(
            f"{file} is not an adapter of ours.",
            got=str(text)[:80],
            allowed=f"a file that minipuzzle adapt wrote ({FORMAT})",
            next=again,
        )
    require(header, _Header, what=f"{file}: its header", next=again)
    saved = SavedAdapter(plan=_plan(header, file), tensors=tensors, base=header["base"])
    planned = {
        f"{g.name}.{f}": shape
        for g in saved.plan.groups
        for f, shape in g.shapes(saved.plan.mask).items()
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != planned:
        wrong = sorted(set(found.items()) ^ set(planned.items()))[0]
        raise UserError(
            f"{file} does not hold the factors that it announces.",
            got=f"{wrong[0]}: {found.get(wrong[0])}",
            allowed=planned.get(wrong[0], "no such factor: a frozen u or v is 1 and not stored"),
            next="Copy the file again.",
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise UserError(
                f"{file} holds no finite numbers in {name}.",
                got=tensor.dtype,
                allowed="finite floating-point numbers",
                next=again,
            )
    return saved


def _header(saved: SavedAdapter) -> dict[str, Any]:
    mask = saved.plan.mask
    return {
        "format": FORMAT,
        "adapter": f"{'tied' if mask.tied else 'layer'}:{','.join(mask.train)}",
        "base": saved.base,
        "formula": (
            "y = W x + (alpha/rank) diag(v) B diag(u) A x; a frozen u or v is 1 and not stored"
        ),
        "groups": [_said(group) for group in saved.plan.groups],
    }


def _said(group: Group) -> dict[str, Any]:
    """A group's fields; of its sites ``stack`` only where they are one."""
    found = asdict(group)
    for site in found["sites"]:
        if not site["stack"]:
            del site["stack"]
    return found


def _plan(header: dict[str, Any], file: Path) -> AdapterPlan:
    groups = []
    for entry in header["groups"]:
        sites = tuple(
            Site(
                block=s["block"],
                projections=tuple(s["projections"]),
                rows=tuple(s["rows"]),
                stack=s.get("stack", 0),
            )
            for s in entry["sites"]
        )
        pairs = all(len(site.projections) == len(site.rows) for site in sites)
        if not sites or not pairs or {sum(site.rows) for site in sites} != {entry["d_out"]}:
            raise UserError(
                f"{file} holds a group that can't be: {entry['name']}.",
                got=entry["sites"],
                allowed="sites whose rows are those of B",
                next="Copy the file again.",
            )
        groups.append(
            Group(
                name=entry["name"],
                d_in=entry["d_in"],
                d_out=entry["d_out"],
                rank=entry["rank"],
                alpha=entry["alpha"],
                sites=sites,
            )
        )
    return AdapterPlan(mask=parse_mask(header["adapter"]), groups=tuple(groups))
