"""The model: an embedding, a list of blocks, a final norm and a head. It knows no family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minipuzzle.arch import Architecture, Selection
from minipuzzle.kernels import Kernels, choose
from minipuzzle.kernels.pointwise import product_dtype
from minipuzzle.model.base import Context, ResidualBlock, make_block, new_slot
from minipuzzle.model.branches import Branch, Branches, Take, Text
from minipuzzle.model.cache import Cache, Room
from minipuzzle.model.context_parallel import ContextParallel
from minipuzzle.model.head import matmul_fp32
from minipuzzle.model.masks import index_mask, meanwhile
from minipuzzle.model.norm import final_norm
from minipuzzle.shapes import Float, Float32, Int


class HybridLM(nn.Module):
    """A hybrid language model. Its ``state_dict`` keys are the canonical names of
    ``Architecture.tensors()``.

    Tokens are [b, s] int64; ``documents`` [b, s], ascending along s, keeps attention and state from
    crossing from one packed document into the next. Blocks of the kinds in ``recomputed`` keep only
    their input, and are computed again in the backward pass (activation checkpointing). Where
    ``parallel`` is set the model runs one part of each sequence: tokens and documents are whole,
    hidden states and logits those of this process's part.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.kernels = kernels or choose(torch.device(device))
        self.recomputed: frozenset[str] = frozenset()
        self.gathered = False  # set by model.reshard
        self.parallel: ContextParallel | None = None
        self.fp8_layers: list[str] = []  # set by model.precision
        self._dropped: frozenset[int] = frozenset()
        self._hidden_mask: Tensor | None = None
        eps = architecture.norm_eps
        # made in its dtype: a large model would not fit in FP32 first
        with torch.device(device), default_dtype(dtype):
            self.embeddings = nn.Embedding(architecture.vocab_size, architecture.hidden)
            self.blocks = nn.ModuleList(
                make_block(b, eps, self.kernels) for b in architecture.blocks
            )
            self.final_norm = final_norm(architecture)
            if not architecture.tied_head:
                self.head = nn.Linear(architecture.hidden, architecture.vocab_size, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        """The head's matrix; the embedding where the head is tied to it."""
        return self.embeddings.weight if self.architecture.tied_head else self.head.weight

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph may hold a training step of every block."""
        return all(cast(ResidualBlock, block).capturable for block in self.blocks)

    def embed(self, tokens: Int[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
        """The input of the first block."""
        h: Tensor = self.embeddings(tokens)
        # under autocast the residual stream is BF16, as in NVIDIA's model, not the masters' FP32
        h = h.to(product_dtype(h))
        if self.architecture.embedding_multiplier != 1:
            h = h * self.architecture.embedding_multiplier
        return h if self._hidden_mask is None else h * self._hidden_mask

    def run_blocks(
        self,
        h: Float[Tensor, "b s d"],
        documents: Int[Tensor, "b whole"] | None,
        start: int,
        stop: int,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b s d"]:
        """The stream after blocks start..stop-1; dropped blocks of a mask are skipped."""
        for i in range(start, stop):
            if i in self._dropped:
                continue
            block, context = self.blocks[i], self._context(i, h.shape[1], documents, cache)
            if self.architecture.blocks[i].kind in self.recomputed and torch.is_grad_enabled():
                # no block draws random numbers, and a state of a generator cannot be captured
                h = checkpoint(block, h, context, use_reentrant=False, preserve_rng_state=False)
            else:
                h = block(h, context)
        return h

    def hidden_states(
        self,
        tokens: Int[Tensor, "b s"],
        documents: Int[Tensor, "b s"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b part d"]:
        """The stream after the final norm, just before the head (divided by the logits'
        divisor).

        With a ``cache`` the tokens follow those it has seen, of which it takes note.
        """
        if self.parallel is not None:
            tokens = tokens[:, self.parallel.part(tokens.shape[1])]
        h = self.run_blocks(self.embed(tokens), documents, 0, len(self.blocks), cache)
        if cache is not None:
            cache.length += tokens.shape[1]
        result: Tensor = self.final_norm(h)
        return result

    def branches(self, selections: Sequence[Selection]) -> Branches:
        """For ``hidden_states_of_texts``.

        Raises: UserError for a selection that the architecture does not allow.
        """
        blocks = cast(Sequence[ResidualBlock], self.blocks)
        return Branches(
            self.architecture,
            selections,
            self.device,
            lambda selection, index: blocks[index].masks(selection.axes(index)),
        )

    def hidden_states_of_texts(self, branches: Branches, texts: Sequence[Text], take: Take) -> None:
        """``take(text, selection, hidden)``, both by number, for each text and selection: what
        ``hidden_states`` gives under its masks, to the last bit. No gradients are kept.
        """
        for number, text in enumerate(texts):
            self.hidden_states_of_each(branches, text.tokens, partial(take, number), text.documents)

    def hidden_states_of_each(
        self,
        branches: Branches,
        tokens: Int[Tensor, "b s"],
        take: Callable[[int, Tensor], None],
        documents: Int[Tensor, "b s"] | None = None,
    ) -> None:
        """The same of one text."""
        with torch.no_grad():
            for mask, branch in branches.trees:
                with meanwhile([(self, "_hidden_mask", mask), (self.final_norm, "kept", mask)]):
                    self._branched(branch, self.embed(tokens), take, documents)

    def _branched(
        self,
        branch: Branch,
        h: Float[Tensor, "b s d"],
        take: Callable[[int, Tensor], None],
        documents: Int[Tensor, "b s"] | None,
    ) -> None:
        while True:
            for index, masks in branch.steps:
                with meanwhile(masks):
                    h = self.blocks[index](h, self._context(index, h.shape[1], documents, None))
            if not branch.forks:
                break
            for fork in branch.forks[:-1]:
                self._branched(fork, h, take, documents)
            branch = branch.forks[-1]
        result = self.final_norm(h)
        for number in branch.members:
            take(number, result)

    def forward(
        self,
        tokens: Int[Tensor, "b s"],
        documents: Int[Tensor, "b s"] | None = None,
        cache: Cache | None = None,
    ) -> Float32[Tensor, "b part v"]:
        """Logits."""
        h = self.hidden_states(tokens, documents, cache)
        return matmul_fp32(h.flatten(0, 1), self.head_weight.to(h.dtype).t()).unflatten(
            0, h.shape[:2]
        )

    @contextmanager
    def masked(self, selection: Selection) -> Iterator[None]:
        """Meanwhile compute what the model that ``selection`` cuts out would; whatever is raised,
        the model is itself again.

        Raises: UserError for a selection that this architecture does not allow.
        """
        selection.student(self.architecture)
        device, size = self.device, self.architecture.hidden
        hidden = index_mask(size, selection.hidden, device)
        dropped = frozenset(range(len(self.blocks))) - frozenset(selection.kept_blocks)
        values: list[tuple[Any, str, Any]] = [
            (self, "_dropped", dropped),
            (self, "_hidden_mask", hidden),
            (self.final_norm, "kept", hidden),
        ]
        for i in selection.kept_blocks:
            module = cast(ResidualBlock, self.blocks[i])
            values += module.masks(selection.axes(i))
        with meanwhile(values):
            yield

    @property
    def device(self) -> torch.device:
        """Where it computes; weights that are offloaded (``parallel.shard``) lie on the CPU."""
        weight: Any = self.embeddings.weight
        mesh = getattr(weight, "device_mesh", None)
        if mesh is None or mesh.device_type == weight.device.type:
            return cast(torch.device, weight.device)
        return torch.device(mesh.device_type)

    def new_cache(
        self, batch: int, max_length: int, state_dtype: torch.dtype = torch.float32
    ) -> Cache:
        """An empty cache on the model's device, keys, values and convolution windows in its
        dtype.
        """
        weight = self.embeddings.weight
        room = Room(
            batch=batch,
            capacity=max_length,
            device=self.device,
            kv_dtype=weight.dtype,
            state_dtype=state_dtype,
        )
        slots = [new_slot(block, room) for block in self.architecture.blocks]
        return Cache(slots=slots, capacity=max_length)

    def _context(
        self, index: int, length: int, documents: Tensor | None, cache: Cache | None
    ) -> Context:
        before = 0 if self.parallel is None else self.parallel.rank * length
        return Context(
            documents=documents,
            slot=None if cache is None else cache.slots[index],
            past=before if cache is None else cache.length,
            hidden_mask=self._hidden_mask,
            parallel=self.parallel,
        )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Meanwhile tensors are made in ``dtype`` unless another is given."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
