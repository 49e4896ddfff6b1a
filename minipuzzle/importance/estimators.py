"""Estimators by name: how much each channel, head and hidden channel of one block matters, from
hooks on its module.

    minitron       FFN: MeanAbsolute of relu2(X W1^T), the input of down_proj.
                   Mamba: MeanAbsolute of LN(X) Wx^T, before the convolution (arXiv:2504.11409,
                   section 3.1). Attention: HeadNorm before o_proj (arXiv:2407.14679, F_head).
                   Hidden: MeanAbsolute of LN(X), summed over blocks (arXiv:2407.14679, F_emb).
    minitron-pre   As minitron; FFN: MeanAbsolute of X W1^T (arXiv:2504.03624, literally; of up
                   where there is a gate).
    flap           Fluctuation into down_proj, out_proj, o_proj.
    contribution   Contribution into down_proj and out_proj (ours), HeadContribution.
    mixed          The default. FFN as flap, the rest as contribution, hidden as minitron.
    magnitude      Norms of rows of up_proj (and gate_proj), of in_proj's x, of q_proj; hidden:
                   norms over all matrices.
    random         Uniform.
    taylor         |sum grad x weight| by sample: minipuzzle.importance.taylor, which needs the
                   whole model.

Where sources differ: NVIDIA's Model Optimizer reads FFN channels after the activation
(``minitron``), the formula of arXiv:2504.03624 before it (``minitron-pre``). For attention it takes
mean |x| of each channel and then the norm over a head's; F_head of arXiv:2407.14679 takes the norm
first, as here. FLAP's released code squares its attention scores and standardises all of them to
compare blocks, and adds the mean of what it cuts to a bias; none of that is done here. ``mixed``
takes for each kind of block what kept most on two teachers, before and after distillation
(docs/results/importance.md). Scores rank the channels of one block;
``minipuzzle.importance.stream`` says what blocks are worth.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.errors import UserError
from minipuzzle.importance.baselines import block_magnitudes, block_noise
from minipuzzle.importance.readings import (
    Array,
    Contribution,
    Fluctuation,
    HeadContribution,
    HeadNorm,
    MeanAbsolute,
    Reading,
)
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2

MIXED = {"mlp": "flap", "mamba": "contribution", "attention": "contribution"}
FORWARD = ("mixed", "minitron", "minitron-pre", "flap", "contribution", "magnitude", "random")
"""Estimators that need one block at a time: forward activations or weights alone."""
ESTIMATORS = (*FORWARD, "taylor")
OUTPUTS = {"mamba": "out_proj", "mlp": "down_proj", "attention": "o_proj"}
"""The projection of each kind of block that writes into the stream."""


def check_streamable(estimator: str) -> None:
    """Raises: UserError for an unknown name, and for "taylor", which one block cannot answer."""
    if estimator == "taylor":
        raise UserError(
            "The estimator 'taylor' needs the gradient of the loss, so the whole model and its"
            " activations in memory.",
            got=estimator,
            allowed=", ".join(FORWARD),
            next=(
                "Call minipuzzle.importance.taylor_scores on a loaded model, or choose another"
                " --estimator."
            ),
        )
    if estimator not in FORWARD:
        near = difflib.get_close_matches(estimator, ESTIMATORS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"There is no estimator {estimator!r}.",
            got=estimator,
            allowed=", ".join(ESTIMATORS),
            next=f"Did you mean {near!r}?",
        )


def width_axis(block: Block) -> tuple[str, tuple[int, ...]]:
    """The key of a block's scores and their shape: "intermediate" [f], "head_channels" [heads,
    head_dim], "q_heads" [q].
    """
    width = block.widths[0]
    return width.score, width.score_shape(block)


def of_kind(block: Block, estimator: str) -> str:
    """The estimator that scores a block: itself, or the one that "mixed" takes for the block's
    kind.
    """
    return MIXED[block.kind] if estimator == "mixed" else estimator


class _Hooks:
    """Hooks that are taken off where the context ends."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


class Collector(_Hooks):
    """Hooks on one block's module while it is entered; every batch that passes meanwhile counts.

    ``sums`` is float64 and additive over batches, and may be replaced entry by entry (resumed, or
    summed over processes) before ``scores``; "magnitude" and "random" have none. ``seed`` is used
    by "random" alone: give each block its own, or blocks of one shape get the same scores. Raises:
    UserError as ``check_streamable``.
    """

    def __init__(self, block: Block, module: nn.Module, estimator: str, seed: int = 0) -> None:
        check_streamable(estimator)
        self.block, self.module, self.estimator, self.seed = (
            block,
            module,
            of_kind(block, estimator),
            seed,
        )
        super().__init__()
        self.reading = _reading(block, module, self.estimator)
        self.sums: dict[str, Array] = {} if self.reading is None else self.reading.sums

    def __enter__(self) -> Collector:
        if self.reading is not None:
            self.handles.append(watch(self.block, self.module, self.estimator, self.reading.add))
        return self

    def scores(self) -> dict[str, Array]:
        """{"intermediate": [f]}, {"head_channels": [heads, head_dim]} or {"q_heads": [q]}, by the
        block's kind.
        """
        key, shape = width_axis(self.block)
        if self.estimator == "magnitude":
            return {key: block_magnitudes(self.block, self.module).reshape(shape)}
        if self.estimator == "random":
            return {key: block_noise(self.block, np.random.default_rng(self.seed)).reshape(shape)}
        assert self.reading is not None
        return {key: self.reading.scores().reshape(shape)}


class HiddenCollector(_Hooks):
    """Hidden channels at one block's norm, mean |LN(x)| over the sequence and L2 over the batch;
    blocks' scores add up.

    Source: arXiv:2407.14679, F_emb; the sum over blocks of the L2 norms is what NVIDIA's Model
    Optimizer does.
    """

    def __init__(self, block: Block, module: nn.Module) -> None:
        self.module: Any = module
        self.reading = MeanAbsolute(block.hidden)
        self.sums: dict[str, Array] = self.reading.sums
        super().__init__()

    def __enter__(self) -> HiddenCollector:
        self.handles.append(
            self.module.norm.register_forward_hook(lambda m, i, output: self.reading.add(output))
        )
        return self

    def scores(self) -> dict[str, Array]:
        """{"hidden": [hidden]}: this block's part of the model's sum."""
        return {"hidden": self.reading.scores()}


def watch(
    block: Block, module: nn.Module, estimator: str, read: Callable[[Tensor], None]
) -> RemovableHandle:
    """Call ``read`` with each activation [b, s, c] that an estimator of a forward pass looks at."""
    parts: Any = module
    before_output = not estimator.startswith("minitron")
    if isinstance(block, Mamba2) and not before_output:
        x = slice(block.inner, 2 * block.inner)
        return parts.in_proj.register_forward_hook(lambda m, i, output: read(output[..., x]))
    if isinstance(block, FeedForward) and estimator == "minitron-pre":
        up = parts.gate_up_proj if block.packed else parts.up_proj
        return up.register_forward_hook(
            lambda m, i, output: read(output[..., -block.intermediate :])
        )
    return output_projection(block, module).register_forward_pre_hook(
        lambda m, inputs: read(inputs[0])
    )


def footprint_hooks(block: Block, estimator: str = "minitron") -> Callable[[nn.Module], None]:
    """Puts hooks on a module of "meta" tensors that allocate what the collectors do and keep
    nothing.
    """

    estimator = of_kind(block, estimator)

    def put(module: Any) -> None:
        reading, hidden = _reading(block, module, estimator), MeanAbsolute(block.hidden)

        def discard(reading: Reading, x: Tensor) -> None:
            reading.reduce(x)

        if reading is not None:
            watch(block, module, estimator, partial(discard, reading))
        module.norm.register_forward_hook(lambda m, i, output: discard(hidden, output))

    return put


def output_projection(block: Block, module: nn.Module) -> nn.Linear:
    """The linear module that writes into the stream."""
    result: nn.Linear = getattr(module, OUTPUTS[block.kind])
    return result


def _reading(block: Block, module: nn.Module, estimator: str) -> Reading | None:
    weight: Tensor = output_projection(block, module).weight
    if estimator in ("magnitude", "random"):
        return None
    heads = block.q_heads if isinstance(block, Attention) else None
    if estimator == "flap":
        return Fluctuation(weight, heads)
    if estimator == "contribution":
        return Contribution(weight) if heads is None else HeadContribution(weight, heads)
    return MeanAbsolute(weight.shape[1]) if heads is None else HeadNorm(heads)
