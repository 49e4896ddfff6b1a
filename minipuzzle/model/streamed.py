"""A checkpoint's model of which two blocks are in memory at a time: the text passes a block under
all selections before the next block is read.

    model = StreamedLM(checkpoint, device=device, rows=2048)
    model.hidden_states_of_texts(model.branches(selections), texts, take)

What it computes is what the whole model does, to the last bit: the same operations on tensors of
the same shapes and dtypes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.branches import Branch, Branches, Steps, Take, Text
from minipuzzle.model.load import frozen_dtype
from minipuzzle.model.masks import meanwhile
from minipuzzle.model.prefetch import BlockReader, embed_into
from minipuzzle.model.rounded import Rounding


@dataclass(frozen=True)
class _Stream:
    """Hidden states ``h`` [rows, s, hidden] of what the members of a ``branch`` share, under
    ``mask``, which have the steps ``left`` before them.
    """

    h: Tensor
    mask: Tensor | None
    branch: Branch
    left: Steps


class StreamedLM:
    """Holds hidden states of at most ``rows`` sequences, those of all selections together, or of a
    text for each: the fewer, the more often are the weights read. Matrices and hidden states are
    BF16 on CUDA, all is FP32 on a CPU.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, rows: int) -> None:
        self.checkpoint, self.device, self.rows = checkpoint, device, rows
        self.architecture, self.rounding = checkpoint.architecture, Rounding(checkpoint)
        self.dtype = frozen_dtype(device)
        self.reader = BlockReader(
            checkpoint, device=device, dtype=self.dtype, narrow=self.architecture.matrices
        )
        name = "embeddings.weight" if self.architecture.tied_head else "head.weight"
        self.head_weight = self.reader.tensor(name, self.dtype)
        self.final_norm = self.reader.final_norm()

    def branches(self, selections: Sequence[Selection]) -> Branches:
        """For ``hidden_states_of_texts``.

        Raises: UserError for a selection that the architecture does not allow.
        """
        return Branches(self.architecture, selections, self.device, lambda s, index: s)

    @torch.no_grad()
    def hidden_states_of_texts(self, branches: Branches, texts: Sequence[Text], take: Take) -> None:
        """As ``HybridLM.hidden_states_of_texts``; a selection's formats are what its blocks are
        rounded to. Raises: UserError for NaN or infinite weights.
        """
        for part in self._parts(texts, self.rows // branches.leaves):
            self._take(branches, part, [texts[number] for number in part], take)

    def _take(
        self, branches: Branches, numbers: Sequence[int], texts: Sequence[Text], take: Take
    ) -> None:
        """A part of the text, whose memory goes back before the next one's is taken."""
        for stream in self._through(branches, texts):
            with meanwhile([(self.final_norm, "kept", stream.mask)]):
                for number, piece in zip(numbers, _pieces(stream.h, texts), strict=True):
                    result = self.final_norm(piece)
                    for member in stream.branch.members:
                        take(number, member, result)

    def _parts(self, texts: Sequence[Text], rows: int) -> Iterator[list[int]]:
        """The numbers of as many texts, one after the other, as ``rows`` allow; of one at least."""
        part: list[int] = []
        held = 0
        for number in range(len(texts)):
            count = len(texts[number].tokens)
            if part and held + count > rows:
                yield part
                part, held = [], 0
            part.append(number)
            held += count
        if part:
            yield part

    def _through(self, branches: Branches, texts: Sequence[Text]) -> list[_Stream]:
        """The streams of a part of the text behind the last block, one for each leaf."""
        tokens = torch.cat([text.tokens for text in texts]).cpu().numpy()
        free = list(
            torch.empty(
                branches.leaves,
                *tokens.shape,
                self.architecture.hidden,
                dtype=self.dtype,
                device=self.device,
            )
        )
        *others, (mask, branch) = branches.trees
        first = free.pop()
        embed_into(first, self.checkpoint, tokens)
        streams = []
        for own, other in others:
            h = free.pop().copy_(first)
            streams += _forked(h if own is None else h.mul_(own), own, other, free)
        streams += _forked(first if mask is None else first.mul_(mask), mask, branch, free)
        for index, module in self.reader.blocks(range(len(self.architecture.blocks))):
            passed: list[_Stream] = []
            for stream in streams:
                if stream.left and stream.left[0][0] == index:
                    self._pass(stream, module, texts)
                    passed += _forked(stream.h, stream.mask, stream.branch, free, stream.left[1:])
                else:
                    passed.append(stream)
            streams = passed
        return streams

    def _pass(self, stream: _Stream, module: ResidualBlock, texts: Sequence[Text]) -> None:
        """Let a stream pass a block, its next step."""
        index, selection = stream.left[0]
        masks = module.masks(selection.axes(index))
        rounded = self.rounding.values(module, index, selection)
        with meanwhile([*masks, *rounded]):
            for text, piece in zip(texts, _pieces(stream.h, texts), strict=True):
                context = Context(documents=text.documents, hidden_mask=stream.mask)
                piece.copy_(module(piece, context))


def _forked(
    h: Tensor, mask: Tensor | None, branch: Branch, free: list[Tensor], left: Steps | None = None
) -> list[_Stream]:
    """The stream, or, where no step is ``left`` (None: all) of a branch that forks, one for each of
    its forks: the last goes on in its place, the others in ``free`` ones.
    """
    left = branch.steps if left is None else left
    if left or not branch.forks:
        return [_Stream(h, mask, branch, left)]
    found = []
    for fork in branch.forks[:-1]:
        found += _forked(free.pop().copy_(h), mask, fork, free)
    return found + _forked(h, mask, branch.forks[-1], free)


def _pieces(h: Tensor, texts: Sequence[Text]) -> Iterator[Tensor]:
    """The rows of each text [b, s, hidden]."""
    yield from h.split([len(text.tokens) for text in texts])
