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
MTP_IN = (
    weight("embedding_norm.weight", "hidden"),
    weight("hidden_norm.weight", "hidden"),
    weight("in_proj.weight", "hidden", "hidden + hidden"),
)
"""What joins the embedding of the newest token and the stream before the blocks of a step of
multi-token prediction.
"""
EVERYTHING = Rules()


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a model: its canonical name, its axes, the sizes they have here, and its block
    (None: top, or multi-token prediction). ``stacked``: it is a stack of matrices.
    """

    name: str
    weight: Weight
    sizes: dict[str, int]
    block: int | None
    stacked: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.weight.shape(self.sizes)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a model, apart from its weights. ``norm_eps`` is used by every RMSNorm;
    ``zero_centred``: the last one multiplies with 1 + its weight, as blocks' may.

    Embeddings are multiplied with ``embedding_multiplier``, logits divided by ``logits_divisor``.
    ``rules`` say what may be pruned.

    ``mtp``: the blocks of each step of multi-token prediction. Files hold them beside the model,
    a cut narrows their hidden size, and nothing runs, trains or counts them as the model's.
    """

    vocab_size: int
    hidden: int
    blocks: tuple[Block, ...]
    norm_eps: float = 1e-5
    zero_centred: bool = False
    tied_head: bool = False
    max_positions: int = 8192
    embedding_multiplier: float = 1.0
    logits_divisor: float = 1.0
    mtp: tuple[tuple[Block, ...], ...] = ()
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
            mtp=tuple(tuple(replace(b, hidden=hidden) for b in step) for step in self.mtp),
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
            yield from _of_block(f"blocks.{i}", block, i)
        yield Tensor(name=FINAL_NORM.name, weight=FINAL_NORM, sizes=top, block=None)
        if not self.tied_head:
            yield Tensor(name=HEAD.name, weight=HEAD, sizes=top, block=None)

    def mtp_tensors(self) -> Iterator[Tensor]:
        """Every tensor of multi-token prediction, in file order."""
        top = {"hidden": self.hidden}
        for step, blocks in enumerate(self.mtp):
            name = f"mtp.{step}"
            for w in MTP_IN:
                yield Tensor(name=f"{name}.{w.name}", weight=w, sizes=top, block=None)
            for i, block in enumerate(blocks):
                yield from _of_block(f"{name}.blocks.{i}", block, None)
            final = f"{name}.{FINAL_NORM.name}"
            yield Tensor(name=final, weight=FINAL_NORM, sizes=top, block=None)

    def file_tensors(self) -> Iterator[Tensor]:
        """What a file holds: the model's tensors, then those of multi-token prediction."""
        yield from self.tensors()
        yield from self.mtp_tensors()

    @property
    def mtp_parameters(self) -> int:
        """The number of parameters of multi-token prediction; ``parameters`` are without them."""
        steps = [block for blocks in self.mtp for block in blocks]
        joins = sum(w.numel({"hidden": self.hidden}) for w in (*MTP_IN, FINAL_NORM))
        return sum(block.parameters for block in steps) + len(self.mtp) * joins

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
        blocks = {f"blocks.{i}": block for i, block in enumerate(self.blocks)}
        for step, own in enumerate(self.mtp):
            blocks |= {f"mtp.{step}.blocks.{i}": block for i, block in enumerate(own)}
        return frozenset(f"{at}.{name}" for at, block in blocks.items() for name in block.buffers)

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


def _of_block(prefix: str, block: Block, index: int | None) -> Iterator[Tensor]:
    """The tensors of one block."""
    sizes, stacks = block.sizes, block.stacks
    for w in block.weights:
        name = f"{prefix}.{w.name}"
        yield Tensor(name=name, weight=w, sizes=sizes, block=index, stacked=w.name in stacks)
