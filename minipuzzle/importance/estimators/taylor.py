"""First-order change of the loss if a part were scaled away (needs the whole model; Python only).

Give a part a gate m = 1 on what it adds to the stream. The change of sample b's loss L_b when the
gate closes is, to first order, -dL_b/dm, and

    score = sqrt( mean_b (dL_b/dm)^2 ),  dL_b/dm = sum over tokens of  g . y  =  sum over the part's
    output weights of W dL_b/dW

with y the part's activation where the output projection W reads it and g = dL_b/dy. This is the
squared group criterion of arXiv:1906.10771 (Molchanov et al., importance of a gate, averaged over
mini-batches), with mini-batches of one sample, and LLM-Pruner's |sum over a group of weight x
gradient| (arXiv:2305.11627, first-order element-wise importance) for one sample. arXiv:2305.11627
leaves open at which weights of a coupled group the sum is taken; at the output projection alone it
is the exact derivative of the gate (up_proj under relu2 would give twice as much). Gradients of
single samples matter: the mean gradient of a trained model is nearly nothing, so signed sums over a
large batch cancel.

Gates: an FFN channel, a Mamba channel after the gated norm (whose statistics count as fixed), an
index of a Mamba group's state (on C, or as well on B), a channel of DeltaNet's keys (its root on q
and on k), an attention head, an expert (what it adds), a channel of an expert's own, the first,
second ... choice of each token, a whole block (all it adds), and a hidden channel (all that the
embedding and the blocks write there, behind the norm where that comes after the mixer). Units: nats
a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from minipuzzle.data import TokenBlocks
from minipuzzle.importance.estimators.base import WholeModel
from minipuzzle.importance.routed import routed_derivatives
from minipuzzle.importance.widths import as_scores, score_count
from minipuzzle.model import HybridLM
from minipuzzle.model.head import matmul_fp32
from minipuzzle.model.routed import Routed
from minipuzzle.scores import Scores

CHUNK_TOKENS = 1024


def taylor_scores(
    model: HybridLM, blocks: TokenBlocks, samples: int, batch: int, seed: int = 0
) -> Scores:
    """Blocks, FFN channels, Mamba channels, attention heads and hidden channels by the formula of
    this module.

    Not streamable: the whole model and the activations of a batch are in memory (no weight
    gradients are kept). Runs in eval mode on the model's device, under the caller's autocast; the
    model is left as it was. Samples are blocks of text chosen by seed; fewer than ``samples`` are
    used when the text has fewer, and ``meta`` says how many.
    """
    count = min(samples, len(blocks))
    tokens = torch.from_numpy(blocks.take(count, seed=seed).tokens.astype(np.int64))
    gates = _Gates(model)
    device = model.embeddings.weight.device
    with _watched(model, gates):
        for part in tokens.split(batch):
            _backward(model, part.to(device))
            gates.finish_batch()
    meta = {"estimator": "taylor", "samples": count, "seed": seed, "data": blocks.fingerprint}
    return gates.scores(count, meta)


class _Gates:
    """Sums over samples of squared gate derivatives, float64, filled by hooks of a backward
    pass.
    """

    def __init__(self, model: HybridLM) -> None:
        self.architecture = model.architecture
        count = len(model.blocks)
        self.blocks = np.zeros(count)
        self.hidden = np.zeros(model.architecture.hidden)
        self.widths = [
            {name: np.zeros(score_count(block, name)) for name in block.score_shapes}
            for block in self.architecture.blocks
        ]
        self.streams: list[Tensor] = []
        self.hidden_sum: Tensor | None = None

    def read_stream(self, h: Tensor) -> None:
        """``h`` [b, s, hidden] is the embedding's output, or the stream after one more block."""
        index = len(self.streams)
        self.streams.append(h.detach())
        h.register_hook(lambda g: self._stream(index, g))

    def read_width(self, index: int, name: str, y: Tensor | Routed) -> None:
        """``y`` [b, s, c] is where the scores ``name`` of block ``index`` are read."""
        if isinstance(y, Routed):
            way, routed = self.architecture.blocks[index].reads[name].way, y
            activation = y.channels if way == "columns of experts" else y.outputs
            batch, sums, value = (
                len(self.streams[-1]),
                self.widths[index][name],
                activation.detach(),
            )

            def count(gradient: Tensor) -> None:
                rows = gradient.float() * value.float()  # [rows, c]
                found = routed_derivatives(routed, rows, batch, way, len(sums))
                sums.__iadd__(found.square().sum(dim=0).cpu().numpy())

            activation.register_hook(count)
            return
        value = y.detach()
        y.register_hook(lambda g: self._width(index, name, g, value))

    def finish_batch(self) -> None:
        """The batch's backward is over: square the hidden channels' sums over the depth, forget the
        streams.
        """
        assert self.hidden_sum is not None
        self.hidden += self.hidden_sum.square().sum(0).cpu().numpy()
        self.hidden_sum = None
        self.streams.clear()

    def scores(self, samples: int, meta: dict[str, Any]) -> Scores:
        """Roots of means over samples."""
        return as_scores(
            self.architecture,
            blocks=np.sqrt(self.blocks / samples),
            widths=[
                {name: np.sqrt(sums / samples) for name, sums in own.items()} for own in self.widths
            ],
            hidden=np.sqrt(self.hidden / samples),
            meta=meta,
        )

    def _stream(self, index: int, gradient: Tensor) -> None:
        before = self.streams[index - 1] if index else torch.zeros_like(self.streams[0])
        added = self.streams[index].float() - before.float()
        derivative = (gradient.float() * added).sum(dim=1).double()  # [b, hidden]
        self.hidden_sum = derivative if self.hidden_sum is None else self.hidden_sum + derivative
        if index:
            self.blocks[index - 1] += derivative.sum(dim=1).square().sum().item()

    def _width(self, index: int, name: str, gradient: Tensor, value: Tensor) -> None:
        derivative = (gradient.float() * value.float()).sum(dim=1).double()  # [b, c]
        sums = self.widths[index][name]
        if self.architecture.blocks[index].reads[name].way == "products":
            # the gate's derivative twice: on either factor it is the same
            derivative = derivative.unflatten(1, (2, -1)).mean(dim=1)  # [b, scores]
        else:
            derivative = derivative.unflatten(1, (len(sums), -1)).sum(dim=2)  # [b, scores]
        sums += derivative.square().sum(dim=0).cpu().numpy()


@contextmanager
def _watched(model: HybridLM, gates: _Gates) -> Iterator[None]:
    """Hooks on every gate; weights without gradients, no activation checkpointing (hooks would fire
    twice), eval mode.
    """
    before = (model.training, model.recomputed, [p.requires_grad for p in model.parameters()])
    handles: list[RemovableHandle] = []
    try:
        # The embedding's output is where the graph begins.
        handles.append(
            model.embeddings.register_forward_hook(
                lambda m, i, output: output.detach().requires_grad_()
            )
        )
        module: Any
        for index, module in enumerate(model.blocks):
            handles.append(_on_input(module, gates.read_stream))
            for name in module.block.score_shapes:
                read = partial(gates.read_width, index, name)
                handles.append(module.watch(module.block.reads[name].point, read))
        handles.append(_on_input(model.final_norm, gates.read_stream))
        model.eval().requires_grad_(False)
        model.recomputed = frozenset()
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.train(before[0])
        model.recomputed = before[1]
        for parameter, needed in zip(model.parameters(), before[2], strict=True):
            parameter.requires_grad_(needed)


def _on_input(module: Any, read: Any) -> RemovableHandle:
    handle: RemovableHandle = module.register_forward_pre_hook(lambda m, inputs: read(inputs[0]))
    return handle


def _backward(model: HybridLM, tokens: Tensor) -> None:
    """Gradients of each sample's mean next-token loss (nats a token)."""
    with torch.enable_grad():
        hidden = model.hidden_states(tokens)
        gradient = torch.zeros_like(hidden)
        ends, targets = hidden.detach()[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        gradient[:, :-1] = _head_gradient(ends, model.head_weight, targets).unflatten(
            0, (len(tokens), -1)
        )
        hidden.backward(gradient / (tokens.shape[1] - 1))


@torch.no_grad()
def _head_gradient(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """[n, hidden] float32: d(-log p(target)) / d hidden, softmax - 1 at the target; logits exist a
    chunk at a time.
    """
    parts = []
    with torch.autocast(hidden.device.type, enabled=False):
        head = head.to(hidden.dtype)
        for end, target in zip(
            hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True
        ):
            error = matmul_fp32(end, head.t()).softmax(-1)
            error.scatter_add_(1, target[:, None], error.new_full((len(target), 1), -1.0))
            parts.append(matmul_fp32(error.to(hidden.dtype), head))
    return torch.cat(parts)


ESTIMATOR = WholeModel(
    source="arXiv:1906.10771, arXiv:2305.11627",
    needs="the gradient of the loss, so the whole model and its activations in memory",
    call="minipuzzle.importance.taylor_scores",
)
