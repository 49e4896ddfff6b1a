"""What every kind's module is: a branch beside the residual stream, h + branch(h).

    added = module.branch(h, Context())            what the block adds to h [b, s, hidden]
    h = module(h, Context(documents=documents))    h + added
    handle = module.watch("channels", read)        read(activation [b, s, c]) at each pass
    with module.masked({"heads": (0, 2)}):         computes what the block cut to these would

``branch`` is the only place that knows where the norm is and what the residual multiplier is:
scoring, footprints, clocks and tests call it and never the parts. Activations are watched at named
points: "branch_input", what the mixer reads [b, s, hidden]; "channels", what the output projection
reads [b, s, c]; and those rows of projections that the kind names (``Block.points``).

A new kind is a file here, named as its file in ``minipuzzle.kinds``, with one subclass of
``ResidualBlock`` that says ``kind = <its Block>.kind``. It defines ``mixer``, which multiplies what
its output projection reads with ``self.kept`` where that is a mask; ``new_slot``; and, where it has
parameters besides matrices, biases and norms, ``reset``. What it does not define raises
NotImplementedError with the kind's and the member's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.kernels import Kernels
from minipuzzle.kinds import Block, Kept
from minipuzzle.model.cache import Room, Slot
from minipuzzle.model.context_parallel import ContextParallel
from minipuzzle.model.expert_parallel import ExpertParallel
from minipuzzle.model.masks import index_mask, meanwhile
from minipuzzle.model.norm import RMSNorm
from minipuzzle.shapes import Float, Float32, Int

MODULES: dict[str, type[ResidualBlock]] = {}
"""The module of every kind by its name; ``ResidualBlock.__init_subclass__`` fills it."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a block is told besides the stream.

    ``documents`` [b, s] int64, ascending along s: nothing crosses from one into the next. ``slot``:
    what the block remembers, of which it takes note; ``past``: the tokens seen before these.
    ``hidden_mask`` [hidden] bool: the hidden channels that stay. ``parallel`` where the stream is
    one part of each sequence: ``past`` tokens are in the parts before, and ``documents`` are those
    of the whole sequence.
    """

    documents: Tensor | None = None
    slot: Slot | None = None
    past: int = 0
    hidden_mask: Tensor | None = None
    parallel: ContextParallel | None = None

    def own_documents(self, length: int, before: int = 0) -> Int[Tensor, "b t"] | None:
        """Those of ``length`` tokens that this process has and of ``before`` before them, counted
        from 0 as kernels want it.
        """
        if self.documents is None or self.parallel is None:
            return self.documents
        found = self.documents[:, self.past - before : self.past + length]
        return found - found[:, :1]

    def enter(
        self, inputs: Float[Tensor, "b s c"], reach: int, shape: tuple[int, ...]
    ) -> tuple[Float[Tensor, "b t c"], Float32[Tensor, "*shape"] | None]:
        """(inputs of a convolution after the ``reach`` before them, the state of this ``shape`` in
        which the part before has ended, 0 where its document has) of a ``parallel`` part; in the
        first one nothing is before.
        """
        assert self.parallel is not None
        found, state = self.parallel.enter(self.parallel.with_tail(inputs, reach), shape)
        if state is not None and self.documents is not None:
            same = self.documents[:, self.past - 1] == self.documents[:, self.past]  # [b]
            state = state * same.view(-1, *[1] * (state.ndim - 1))
        return found, state

    def masked(self, added: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        """``added`` [b, s, hidden], 0 in hidden channels that are cut."""
        return added if self.hidden_mask is None else added * self.hidden_mask


class ResidualBlock(nn.Module):
    """h + branch(h): what is sharded, and computed again in the backward pass, as one.

    Attribute names of submodules and parameters are the names of ``block.weights``.
    """

    kind: ClassVar[str]
    block: Block
    kept: Tensor | None
    """[c] bool, true at the channels that the output projection still reads; None for all."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            MODULES[cls.kind] = cls

    def __init__(self, block: Block, eps: float, kernels: Kernels) -> None:
        super().__init__()
        self.block = block
        self.kept = None
        self.norm = RMSNorm(block.hidden, eps, zero_centred=block.zero_centred)
        self.branch_input = nn.Identity()

    def forward(self, h: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        return h + context.masked(self.branch(h, context))

    def branch(self, h: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """What the block adds to h: multiplier x mixer(norm(h)), or multiplier x
        norm(mixer(h)) where the norm comes after.
        """
        if self.block.norm_after:
            # no norm masks what the mixer reads: hidden channels that are cut count as 0
            x = h if self.norm.kept is None else h * self.norm.kept
            added = self.norm(self.mixer(self.branch_input(x), context))
        else:
            added = self.mixer(self.branch_input(self.norm(h)), context)
        multiplier = self.block.residual_multiplier
        return added if multiplier == 1 else added * multiplier

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """What ``branch`` adds, from ``branch_input``; output projection included."""
        raise self._undeclared("mixer")

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> Slot | None:
        """What one block remembers, empty; None for nothing."""
        raise NotImplementedError(f"the kind {cls.kind!r} does not declare new_slot")

    def reset(self, generator: torch.Generator) -> None:
        """Draw the first values of parameters that are no matrices, biases or norms."""
        norms = {f"{name}.weight" for name, m in self.named_modules() if isinstance(m, RMSNorm)}
        matrices = {f"{name}.weight" for name in self.block.projections}
        for name, _ in self.named_parameters():
            if name not in norms | matrices and not name.endswith(".bias"):
                raise self._undeclared(f"reset of {name}")

    def watch(self, point: str, read: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``read`` with the activation [b, s, c] that passes a point, at every pass.

        Raises: NotImplementedError for a point that the kind does not have.
        """
        # the tensor itself, no view of it: its gradient may be asked for
        if point == "branch_input":
            return self.branch_input.register_forward_hook(lambda m, i, output: read(output))
        if point == "channels":
            return self.output.register_forward_pre_hook(lambda m, inputs: read(inputs[0]))
        if point not in self.block.points:
            raise self._undeclared(f"the point {point!r}")
        rows = self.block.points[point]
        channels = self.block.rows(rows)
        return self.get_submodule(rows.projection).register_forward_hook(
            lambda m, i, output: read(output[..., channels])
        )

    def add_low_rank(
        self, stack: str, rank: int, pair: Callable[[], tuple[Tensor, Tensor]]
    ) -> RemovableHandle:
        """Compute with W + B A in place of each matrix W of a stack; ``pair`` gives (A [count,
        rank, d_in], B [count, d_out, rank]) at each pass.
        """
        raise self._undeclared(f"how {stack} is adapted")

    def divide(self, parallel: ExpertParallel) -> set[nn.Parameter]:
        """Hold this process's share of each stack from now on, which are returned."""
        if self.block.stacks:
            raise self._undeclared("how its stacks are divided")
        return set()

    @property
    def stacks_adapted(self) -> bool:
        """Whether ``add_low_rank`` was asked for."""
        return False

    @property
    def capturable(self) -> bool:
        """Whether a training step of it never waits for the device, so that a CUDA graph may hold
        it.
        """
        return True

    @property
    def output(self) -> nn.Linear:
        """The projection that writes into the stream; its columns read ``channels``."""
        return cast(nn.Linear, self.get_submodule(self.block.output))

    @property
    def projections(self) -> dict[str, nn.Linear]:
        """The matrices as modules, by name: what adapters and FP8 touch.

        Raises: NotImplementedError where one of them is no nn.Linear.
        """
        found = {}
        for name in self.block.projections:
            module = self.get_submodule(name)
            if not isinstance(module, nn.Linear):
                raise self._undeclared(f"{name} as an nn.Linear")
            found[name] = module
        return found

    def masks(self, kept: Kept) -> list[tuple[Any, str, Tensor | None]]:
        """(module, attribute, mask) to set so that this computes what the block cut to ``kept``
        would: bool masks of the channels that the output projection reads and that norms count.

        Raises: NotImplementedError where an axis of ``kept`` would not be masked by that.
        """
        columns = (self, self.block.weight(f"{self.block.output}.weight"), 1)
        norms = [
            (norm, self.block.weight(f"{name}.weight"), 0)
            for name, norm in self.named_modules()
            if isinstance(norm, RMSNorm)
        ]
        device = self.norm.weight.device
        found, masked = [], {"hidden"}
        for module, weight, dim in (columns, *norms):
            indices = weight.indices(self.block.sizes, kept)[dim]
            size = weight.shape(self.block.sizes)[dim]
            found.append((module, "kept", index_mask(size, indices, device)))
            masked |= {axis for segment in weight.dims[dim] for axis in segment}
        for width in self.block.widths:  # a KV head goes with the query heads that read it
            masked |= set(width.axes) if masked & set(width.axes) else set()
        for name in kept:  # an axis, or what each index of one keeps of another
            if (axis := name.rpartition("*")[2]) not in masked:
                raise self._undeclared(f"how the axis {axis!r} is masked")
        return found

    @contextmanager
    def masked(self, kept: Kept) -> Iterator[Self]:
        """Meanwhile compute what the block cut to the indices ``kept`` of its axes would."""
        with meanwhile(self.masks(kept)):
            yield self

    def _undeclared(self, member: str) -> NotImplementedError:
        return NotImplementedError(
            f"the module of kind {self.block.kind!r} does not declare {member}"
        )


def module_type(block: Block) -> type[ResidualBlock]:
    """The class that runs a block. Raises: NotImplementedError where its kind has none."""
    if block.kind not in MODULES:
        raise NotImplementedError(f"no module runs the kind {block.kind!r}")
    return MODULES[block.kind]


def make_block(block: Block, eps: float, kernels: Kernels) -> ResidualBlock:
    """The module that runs a block. Raises: NotImplementedError where its kind has none."""
    return module_type(block)(block, eps, kernels)


def new_slot(block: Block, room: Room) -> Slot | None:
    """As ``ResidualBlock.new_slot``, by the block's kind."""
    return module_type(block).new_slot(block, room)
