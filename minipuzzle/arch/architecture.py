"""A model as data: an embedding, a list of blocks, a final norm and a head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from minipuzzle.arch.rules import Rules
from minipuzzle.identity import Plain, changed
from minipuzzle.kinds import Block, weight
from minipuzzle.kinds.axes import Weight

EMBEDDING = weight("embeddings.weight", "vocab", "hidden")
FINAL_NORM = weight("final_norm.weight", "hidden")
HEAD = weight("head.weight", "vocab", "hidden")
EVERYTHING = Rules()


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a model: its canonical name, its axes, the sizes they have here, and its block
    (None: top).
    """

    name: str
    weight: Weight
    sizes: dict[str, int]
    block: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.weight.shape(self.sizes)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a model, apart from its weights. ``norm_eps`` is used by every RMSNorm.

    Embeddings are multiplied with ``embedding_multiplier``, logits divided by ``logits_divisor``.
    ``rules`` say what may be pruned.
    """

    vocab_size: int
    hidden: int
    blocks: tuple[Block, ...]
    norm_eps: float = 1e-5
    tied_head: bool = False
    max_positions: int = 8192
    embedding_multiplier: float = 1.0
    logits_divisor: float = 1.0
    rules: Rules = EVERYTHING

    def identity(self) -> dict[str, Plain]:
        """What a saved run is compared by. ``rules`` are left out: what may be pruned of a model
        changes nothing that it computes.
        """
        return changed(self, without=("rules",))

    @property
    def pattern(self) -> str:
        """The layer pattern: one letter a block, as each kind declares it."""
        return "".join(block.letter for block in self.blocks)

    def at_hidden(self, hidden: int) -> Architecture:
        """The same with another hidden size, everything else as it is."""
        return replace(
            self,
            hidden=hidden,
            blocks=tuple(replace(block, hidden=hidden) for block in self.blocks),
        )

    def count(self, kind: str) -> int:
        """How many blocks are of a kind, by its name."""
        return sum(block.kind == kind for block in self.blocks)

    def indices(self, kind: str) -> list[int]:
        """The positions of the blocks of a kind."""
        return [i for i, block in enumerate(self.blocks) if block.kind == kind]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the model, in file order. A tied head has none of its own."""
        top = {"vocab": self.vocab_size, "hidden": self.hidden}
        yield Tensor(name=EMBEDDING.name, weight=EMBEDDING, sizes=top, block=None)
        for i, block in enumerate(self.blocks):
            for w in block.weights:
                yield Tensor(name=f"blocks.{i}.{w.name}", weight=w, sizes=block.sizes, block=i)
        yield Tensor(name=FINAL_NORM.name, weight=FINAL_NORM, sizes=top, block=None)
        if not self.tied_head:
            yield Tensor(name=HEAD.name, weight=HEAD, sizes=top, block=None)

    @property
    def matrices(self) -> frozenset[str]:
        """The names of what products are made with: the embedding, the head and the projections of
        each block. They are kept in BF16 on a GPU, drawn from a normal, and decay.
        """
        top = {EMBEDDING.name} if self.tied_head else {EMBEDDING.name, HEAD.name}
        blocks = enumerate(self.blocks)
        return frozenset(top | {f"blocks.{i}.{name}" for i, b in blocks for name in b.matrices})

    @property
    def buffers(self) -> frozenset[str]:
        """The names of tensors that are no parameters."""
        blocks = enumerate(self.blocks)
        return frozenset(f"blocks.{i}.{name}" for i, block in blocks for name in block.buffers)

    @property
    def parameters(self) -> int:
        """The number of parameters; the blocks and the top add up to every tensor of the file."""
        top = self.vocab_size * self.hidden * (1 if self.tied_head else 2) + self.hidden
        return top + sum(block.parameters for block in self.blocks)

    @property
    def active_parameters(self) -> int:
        """The number of parameters that one token is computed with, all of the top among them."""
        blocks = sum(block.parameters - block.active_parameters for block in self.blocks)
        return self.parameters - blocks

    @property
    def active_if_fewer(self) -> int | None:
        """``active_parameters`` where these are not all; None where they are, as in most models."""
        active = self.active_parameters
        return active if active < self.parameters else None

    @property
    def layer_groups(self) -> list[tuple[int, ...]]:
        """The positions of the blocks that stay or go together: one block each, or the two of a
        layer.
        """
        step = 2 if self.rules.paired else 1
        return [tuple(range(i, i + step)) for i in range(0, len(self.blocks), step)]

    @property
    def kinds(self) -> list[str]:
        """The kinds of its blocks, each once, in the order in which they come."""
        return list(dict.fromkeys(block.kind for block in self.blocks))

    @property
    def homogeneous(self) -> bool:
        """Whether all blocks of a kind have one form, as stock transformers wants it."""
        forms = {block.form() for block in self.blocks}
        return len(forms) == len(self.kinds)
