"""What every kind of block says of itself; everything that is known of a kind is in its one file.

A kind is found by its file: ``minipuzzle/kinds/<name>.py`` holds one subclass of ``Block``, which
is registered under its ``kind``. How it runs is ``minipuzzle/model/<name>.py``. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from minipuzzle.identity import Plain, changed
from minipuzzle.kinds.axes import Kept, Rows, Weight, weight
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.read import Read
from minipuzzle.kinds.width import Width

NORM = weight("norm.weight", "hidden")
OTHERS = (0.83, 0.5, 0.25)
"""``Block.min_keep`` of kinds that have none of their own; the first level is for 56B to 47B."""
KINDS: dict[str, type[Block]] = {}  # by name; ``Block.__init_subclass__`` fills it


@dataclass(frozen=True, kw_only=True)
class Block:
    """One norm, one mixer, one residual add: h + multiplier x mixer(norm(h)), or with
    ``norm_after`` h + multiplier x norm(mixer(h)). ``zero_centred`` norms have 1 + their weight.

    A kind declares its class attributes, its sizes, its weights and what it costs. What it does not
    declare raises NotImplementedError with the kind's and the member's name: nothing is guessed.
    """

    kind: ClassVar[str]
    """Its name in files, options and messages ("mamba")."""
    letter: ClassVar[str]
    """Its letter in a layer pattern ("M")."""
    label: ClassVar[str]
    """What people call it ("Mamba-2")."""
    output: ClassVar[str]
    """The projection that writes into the stream ("out_proj")."""
    widths: ClassVar[tuple[Width, ...]]
    """How it gets narrower."""
    estimator: ClassVar[str]
    """The estimator that "mixed" takes: it ranked best (docs/results/importance.md)."""
    min_keep: ClassVar[tuple[float, float, float]] = OTHERS
    """The least share of its blocks that a search keeps at each level of its space, the widest
    last. Kinds that leave it are bounded together, as "others".
    """
    apart: ClassVar[tuple[str, ...]] = ()
    """Weights of two or three dimensions that are no projections: a convolution's, a router's."""
    routers: ClassVar[tuple[str, ...]] = ()
    """Weights that choose which of its parts a token passes: after a cut they stay as they were."""
    operation: ClassVar[str] = ""  # of its own, as ``kernels.choose`` calls it ("experts")
    fused: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Projections of one input that an adapter may take as one, by name ("qkv")."""

    hidden: int
    residual_multiplier: float = 1.0
    norm_after: bool = False
    zero_centred: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" not in cls.__dict__:
            return
        others = [other for kind, other in KINDS.items() if kind != cls.kind]
        taken = {name for other in others for name in _names(other)}
        own = Counter(_names(cls))
        if clash := ({"hidden", "."} | taken) & set(own) | {
            n for n, times in own.items() if times > 1
        }:
            raise TypeError(
                f"the kind {cls.kind!r} has names that are taken: {', '.join(sorted(clash))}"
            )
        KINDS[cls.kind] = cls

    if not TYPE_CHECKING:  # which would take every name for an attribute then

        def __getattr__(self, member: str) -> Any:
            """Of what is only annotated above: the kind has not said it."""
            if member != "kind" and member in Block.__annotations__:
                raise self._undeclared(member)
            raise AttributeError(f"{type(self).__name__} has no {member!r}")

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        raise self._undeclared("sizes")

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        raise self._undeclared("weights")

    @property
    def makers(self) -> tuple[Rows, ...]:
        """The rows that make what its widths score, the scored axes first of the axes of each."""
        raise self._undeclared("makers")

    @property
    def points(self) -> dict[str, Rows]:
        """Where an activation can be read besides "branch_input" and "channels": by name, the rows
        that make it ("before_activation", "before_convolution").
        """
        raise self._undeclared("points")

    def cache(self, context: int) -> Cache:
        """What it remembers of a sequence of ``context`` tokens while it decodes."""
        raise self._undeclared("cache")

    def flops(self, context: int) -> Flops:
        """Forward operations for one token that sees ``context`` tokens, itself included."""
        raise self._undeclared("flops")

    def text_flops(self, length: int) -> Flops:
        """Forward operations for a token of a text of ``length``, on average."""
        return self.flops((length + 1) // 2)

    def saved_values(self) -> int:
        """Activations a token that the backward pass keeps, in values."""
        raise self._undeclared("saved_values")

    def backward_values(self) -> float:
        """Gradients and the like that its backward pass works in, in values a token."""
        raise self._undeclared("backward_values")

    def adapter_values(self) -> int:
        """What the backward pass keeps besides, in values a token, where stacks have an adapter."""
        return 0

    def sent_values(self, together: int) -> float:
        """Of a token to those of the processes that share its stacks, in values; as many back."""
        return 0.0

    def identity(self) -> dict[str, Plain]:
        """What a saved run is compared by: the kind, and fields that are not at their defaults."""
        return {"kind": self.kind, **changed(self)}

    def depends_on_length(self, length: int) -> bool:
        """Whether a token in ``length`` of them is treated otherwise than in a shorter sequence."""
        raise self._undeclared("depends_on_length")

    @cached_property
    def parameters(self) -> int:
        """The number of parameters, the norm included."""
        return sum(w.numel(self.sizes) for w in self.weights if w.name not in self.buffers)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Tensors of the file that are no parameters: held in FP32, not trained, not counted."""
        return ()

    @property
    def active_parameters(self) -> int:
        """The number of parameters that one token is computed with."""
        return self.parameters

    def read_parameters(self, tokens: float) -> float:
        """How many parameters a forward pass of so many tokens reads, on average."""
        return float(self.parameters)

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The matrices, by name without ".weight": (d_out, d_in). Adapters, FP8 and weight decay
        touch these.

        Raises: NotImplementedError for a weight of three dimensions that is neither among ``apart``
        nor among ``stacks``.
        """
        found = {}
        for w in self.weights:
            if w.name in self.apart or w.name in self.stacks:
                continue
            if len(w.dims) > 2:
                raise self._undeclared(f"what {w.name} is")
            if len(w.dims) == 2:
                rows, columns = w.shape(self.sizes)
                found[w.name.removesuffix(".weight")] = (rows, columns)
        return found

    @property
    def stacks(self) -> dict[str, tuple[int, int, int]]:
        """Matrices of one shape in one tensor, by its name: (count, d_out, d_in)."""
        return {}

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of what products are made with: projections and stacks."""
        return (*(f"{name}.weight" for name in self.projections), *self.stacks)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the matrices that write into the stream."""
        return (f"{self.output}.weight",)

    def weight(self, name: str) -> Weight:
        """The tensor of a name."""
        return next(w for w in self.weights if w.name == name)

    def rows(self, rows: Rows) -> slice:
        """The positions of ``rows`` in the output of their projection, or of those of a stack."""
        stack = rows.projection in self.stacks
        dim = self.weight(rows.projection if stack else f"{rows.projection}.weight").dims[stack]
        counts = [prod(self.sizes[axis] for axis in segment) for segment in dim]
        start = sum(counts[: rows.segment])
        return slice(start, start + counts[rows.segment])

    @property
    def own_widths(self) -> tuple[Width, ...]:
        """The widths of its kind whose axes it has."""
        return tuple(width for width in self.widths if width.axis in self.sizes)

    @property
    def prunable(self) -> tuple[str, ...]:
        """The names of what a selection may keep a part of."""
        return tuple(key for w in self.own_widths for key in w.keys)

    @property
    def searched(self) -> tuple[Width, ...]:
        """The widths whose sizes a search chooses."""
        return tuple(width for width in self.own_widths if width.searched)

    @property
    def score_shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of scores that rank its widths, by name, and their shapes."""
        return {width.score: width.score_shape(self) for width in self.own_widths}

    @property
    def reads(self) -> dict[str, Read]:
        """What each array of scores is measured by, by its name: of a kind with one, what the
        output projection reads.
        """
        if len(self.score_shapes) > 1:
            raise self._undeclared(f"reads of {', '.join(self.score_shapes)}")
        weight = f"{self.output}.weight" if self.score_shapes else ""
        read = Read(point="channels", weight=weight, makers=self.makers)
        return dict.fromkeys(self.score_shapes, read)

    def form(self) -> Self:
        """The block without what may differ among blocks that count as alike: its norm's place."""
        return replace(self, norm_after=False)

    def resized(self, **sizes: int) -> Self:
        """The block with other sizes of some axes, by their names."""
        changes: dict[str, Any] = dict(sizes)
        return replace(self, **changes)

    def whole_size(self, name: str) -> int:
        """How many indices there are of what a selection names by an axis or by two."""
        return prod(self.sizes[axis] for axis in name.split("*"))

    def kept_sizes(self, kept: Kept) -> dict[str, int]:
        """The size of each axis that ``kept`` names, once the block keeps no more."""
        found = {}
        for name, chosen in kept.items():
            each, _, axis = name.rpartition("*")
            rows = len(kept[each]) if each in kept else self.sizes.get(each, 1)
            found[axis] = len(chosen) // rows
        return found

    def fault(self) -> tuple[str, str] | None:
        """(what its sizes say, what is allowed) where they contradict each other."""
        return None

    def product_flops(self) -> int:
        """Operations a token in all projections."""
        return 2 * sum(rows * columns for rows, columns in self.projections.values())

    def uneven(self, kept: Kept) -> tuple[Width, list[int]] | None:
        """The first coupling that ``kept`` breaks, and how many it keeps in each part; or None."""
        for width in self.own_widths:
            parts, whole = width.coupling
            if parts is None or not {parts, whole} & set(kept):
                continue
            if width.each is not None and parts not in kept:
                continue  # an index that goes takes its own along
            share = self.whole_size(parts) // self.sizes[whole]
            count = Counter(i // share for i in kept.get(parts, range(self.whole_size(parts))))
            wholes = kept.get(whole, range(self.sizes[whole]))
            if set(count) - set(wholes):
                return width, [0]
            counts = [count[i] for i in wholes]
            if min(counts) == 0 or len(set(counts)) > 1:
                return width, counts
        return None

    def _undeclared(self, member: str) -> NotImplementedError:
        return NotImplementedError(f"the kind {self.kind!r} does not declare {member}")


def _names(kind: type[Block]) -> list[str]:
    """What patterns, shapes and files call a kind and the axes that a search sizes: no two may be
    the same, since a point of the grid has one number for each.
    """
    axes = [width.axis for width in getattr(kind, "widths", ()) if width.searched]
    letters = [kind.letter] if hasattr(kind, "letter") else []
    return [kind.kind, *letters, *axes]
