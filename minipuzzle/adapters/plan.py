"""Which projections get an adapter, which of them share factors, and what that costs. No torch.

    y = W x + (alpha/r) diag(v) B diag(u) A x        A [r, d_in], u [r], B [d_out, r], v [d_out]

Source: arXiv:2311.09578 (Tied-LoRA), section 3: A and B are one tensor for all layers, u and v are
each layer's own, and each of the four is trained or frozen. The paper adapts only the fused QKV
projection; here all projections of the same kind and shape tie together, and blocks whose widths
differ after pruning form groups of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.kinds import Block

PRESETS = {"lora": "layer:A,B", "tl5": "tied:A,B", "tl6": "tied:A,B,u,v", "vera": "tied:u,v"}
"""TL1 to TL4 are masks with A or B frozen; which number is which is unclear, so the masks are
written out.
"""
FACTORS = ("A", "B", "u", "v")
LEAST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Whether layers share A and B, and which factors are trained; frozen u and v are 1, a frozen A
    or B is random.
    """

    tied: bool
    train: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{'tied' if self.tied else 'layer'}:{','.join(self.train)}"
        return next((name for name, mask in PRESETS.items() if mask == text), text)


def parse_mask(text: str) -> Mask:
    """The mask of a preset, or of ``tied:A,u,v`` and ``layer:A,B``. Raises: UserError for anything
    else.
    """
    kind, _, factors = PRESETS.get(text.lower(), text).partition(":")
    named = [factor.strip() for factor in factors.split(",") if factor.strip()]
    if (
        kind not in ("tied", "layer")
        or not named
        or set(named) - set(FACTORS)
        or len(set(named)) != len(named)
    ):
        raise UserError(
            "There is no such adapter.",
            got=text,
            allowed=(
                f"{', '.join(PRESETS)}, or tied: or layer: and those of A,B,u,v that are trained"
                " (tied:A,u,v)"
            ),
            next="tl6 is the one to start with.",
        )
    return Mask(tied=kind == "tied", train=tuple(f for f in FACTORS if f in named))


@dataclass(frozen=True, kw_only=True)
class Site:
    """One adapted place: a projection of a block, or several that share A and u (``rows``: the
    output size of each); or a ``stack`` of so many matrices, each a layer of the group.
    """

    block: int
    projections: tuple[str, ...]
    rows: tuple[int, ...]
    stack: int = 0

    def weights(self) -> Iterator[tuple[str, slice]]:
        """(canonical name of the weight, its rows of B and v) of each projection or of the
        stack.
        """
        for module, rows in self.parts():
            yield (module if self.stack else f"{module}.weight"), rows

    @property
    def layers(self) -> int:
        """How many layers of the group it is."""
        return self.stack or 1

    def parts(self) -> Iterator[tuple[str, slice]]:
        """(canonical module name, its rows of B and v) of each projection."""
        start = 0
        for projection, size in zip(self.projections, self.rows, strict=True):
            yield f"blocks.{self.block}.{projection}", slice(start, start + size)
            start += size


@dataclass(frozen=True, kw_only=True)
class Group:
    """The sites of one kind and shape: what ties together. ``name`` says both."""

    name: str
    d_in: int
    d_out: int
    rank: int
    alpha: float
    sites: tuple[Site, ...]

    @property
    def layers(self) -> int:
        """In all sites."""
        return sum(site.layers for site in self.sites)

    def placed(self) -> Iterator[tuple[Site, slice]]:
        """Each site and its layers."""
        start = 0
        for site in self.sites:
            yield site, slice(start, start + site.layers)
            start += site.layers

    def shapes(self, mask: Mask) -> dict[str, tuple[int, ...]]:
        """The shape of each stored factor: A and B with a first axis of layers where they are not
        tied, u and v (which are stored where they are trained) always with one.
        """
        layers = (self.layers,)
        own = () if mask.tied else layers
        shapes = {"A": (*own, self.rank, self.d_in), "B": (*own, self.d_out, self.rank)}
        own_scales = {"u": (*layers, self.rank), "v": (*layers, self.d_out)}
        return shapes | {
            factor: shape for factor, shape in own_scales.items() if factor in mask.train
        }

    def trainable(self, mask: Mask) -> int:
        """Trained parameters. Tied: [A] r d_in + [B] r d_out + [u] L r + [v] L d_out; a layer of
        its own: L times A, B.
        """
        layers = self.layers
        own = 1 if mask.tied else layers
        sizes = {
            "A": own * self.rank * self.d_in,
            "B": own * self.rank * self.d_out,
            "u": layers * self.rank,
            "v": layers * self.d_out,
        }
        return sum(sizes[factor] for factor in mask.train)

    @property
    def lora(self) -> int:
        """Trained parameters of ordinary LoRA of the same rank at the same sites: L r (d_in +
        d_out).
        """
        return self.layers * self.rank * (self.d_in + self.d_out)


@dataclass(frozen=True, kw_only=True)
class AdapterPlan:
    """A mask and the groups it applies to."""

    mask: Mask
    groups: tuple[Group, ...]

    @property
    def trainable(self) -> int:
        """All trained parameters."""
        return sum(group.trainable(self.mask) for group in self.groups)

    @property
    def lora(self) -> int:
        """Those of ordinary LoRA of the same rank."""
        return sum(group.lora for group in self.groups)

    @property
    def lonely(self) -> tuple[str, ...]:
        """Groups of one layer, where tying saves nothing."""
        return tuple(group.name for group in self.groups if self.mask.tied and group.layers == 1)


def make_plan(
    architecture: Architecture,
    adapter: str,
    *,
    rank: int,
    alpha: float | None = None,
    target: str = "all",
    few: bool = False,
) -> AdapterPlan:
    """The plan for ``target``: a comma-separated list of projections ("in_proj" or "in"; "qkv" for
    those that a kind lists as ``fused`` under that name), of block kinds and "all". ``alpha`` None
    means the rank, as in the paper: no scaling.

    Raises: UserError for an unknown adapter, a target that matches nothing or, unless ``few``,
    under 10 % of the blocks.
    """
    mask = parse_mask(adapter)
    if rank < 1:
        raise UserError(
            "The rank is too small.", got=rank, allowed="at least 1", next="8 is usual."
        )
    sites: dict[str, list[tuple[int, Site]]] = {}
    for index, block in enumerate(architecture.blocks):
        for key, d_in, site in _sites(index, block, _names(architecture, target)):
            sites.setdefault(f"{key}-{d_in}x{'+'.join(map(str, site.rows))}", []).append(
                (d_in, site)
            )
    _check_coverage(
        architecture, {site.block for found in sites.values() for _, site in found}, target, few
    )
    groups = tuple(
        Group(
            name=name,
            d_in=found[0][0],
            d_out=sum(found[0][1].rows),
            rank=rank,
            alpha=float(rank if alpha is None else alpha),
            sites=tuple(site for _, site in found),
        )
        for name, found in sites.items()
    )
    return AdapterPlan(mask=mask, groups=groups)


def _names(architecture: Architecture, target: str) -> set[str]:
    """The names in a target, projections by their whole name. Raises: UserError for one that this
    model does not know.
    """
    names = {name for block in architecture.blocks for name in (*block.projections, *block.stacks)}
    fused = {name for block in architecture.blocks for name in block.fused}
    kinds = {block.kind for block in architecture.blocks}
    known = {"all", *kinds, *names, *fused}
    wanted = {
        f"{w}_proj" if f"{w}_proj" in names else w
        for w in (w.strip() for w in target.split(","))
        if w
    }
    if wanted - known or not wanted:
        raise UserError(
            f"The target {target!r} matches nothing in this model.",
            got=", ".join(sorted(wanted - known)) or "no name",
            allowed=", ".join(sorted(known)),
            next="Name a kind of block, a projection or all.",
        )
    return wanted


def _sites(index: int, block: Block, wanted: set[str]) -> Iterator[tuple[str, int, Site]]:
    found = block.projections
    # as in the paper's fused projection: one A and one u for all of them, B and v by rows
    fused = {name: parts for name, parts in block.fused.items() if name in wanted}
    for name, parts in fused.items():
        rows = tuple(found[part][0] for part in parts)
        yield (
            f"{block.kind}-{name}",
            found[parts[0]][1],
            Site(block=index, projections=parts, rows=rows),
        )
    within = {part for parts in fused.values() for part in parts}
    for name, (d_out, d_in) in found.items():
        if name not in within and wanted & {"all", block.kind, name}:
            yield (
                f"{block.kind}-{name}",
                d_in,
                Site(block=index, projections=(name,), rows=(d_out,)),
            )
    for name, (count, d_out, d_in) in block.stacks.items():
        if wanted & {"all", block.kind, name}:
            yield (
                f"{block.kind}-{name}".replace(".", "_"),
                d_in,
                Site(block=index, projections=(name,), rows=(d_out,), stack=count),
            )


def _check_coverage(architecture: Architecture, blocks: set[int], target: str, few: bool) -> None:
    share = len(blocks) / len(architecture.blocks)
    if share < LEAST_SHARE and not few:
        unreached = {b.kind for i, b in enumerate(architecture.blocks) if i not in blocks}
        raise UserError(
            f"The target {target!r} reaches almost none of this model.",
            got=f"{len(blocks)} of {len(architecture.blocks)} blocks ({share:.1%})",
            allowed=f"at least {LEAST_SHARE:.0%} of the blocks",
            next=(
                f"Add {' or '.join(sorted(unreached))} to adapter.target, or set adapter.few where"
                " so few blocks are meant."
            ),
        )
