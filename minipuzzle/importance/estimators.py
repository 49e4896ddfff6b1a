"""Scores of the channels and heads of one block, from hooks on its module while calibration batches pass through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.arch import Attention, Block, FeedForward, Mamba2

FORWARD = ("minitron", "minitron-pre")
"""Estimators that a forward pass suffices for."""


class Collector:
    """Running sums of squares of mean |x| over the sequence: L2 over the batch in the end (arXiv:2407.14679).

    "minitron" reads FFN channels after the activation, "minitron-pre" before it (X W1^T, arXiv:2504.03624); both read
    Mamba channels at the raw x projection (arXiv:2504.11409, section 3.1) and of each attention head the L2 norm of its
    output before o_proj. ``sums`` are float64 and additive over batches.
    """

    def __init__(self, block: Block, module: nn.Module, estimator: str) -> None:
        self.block = block
        self.module: Any = module
        self.estimator = estimator
        self.handles: list[RemovableHandle] = []
        self.key, self.shape = _shape(block)
        self.sums: dict[str, NDArray[np.float64]] = {self.key: np.zeros(int(np.prod(self.shape)))}

    def __enter__(self) -> Collector:
        block, module = self.block, self.module
        if isinstance(block, Mamba2):
            part = slice(block.inner, 2 * block.inner)
            self.handles.append(module.in_proj.register_forward_hook(lambda m, i, output: self._add(output[..., part])))
        elif isinstance(block, Attention):
            self.handles.append(module.o_proj.register_forward_pre_hook(lambda m, inputs: self._add_heads(inputs[0])))
        elif self.estimator == "minitron-pre":
            self.handles.append(module.up_proj.register_forward_hook(lambda m, i, output: self._add(output)))
        else:
            self.handles.append(module.down_proj.register_forward_pre_hook(lambda m, inputs: self._add(inputs[0])))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """"intermediate" [f], "head_channels" [heads, head_dim] or "q_heads" [q_heads], by the block's kind."""
        return {self.key: np.sqrt(self.sums[self.key]).reshape(self.shape)}

    def _add(self, activation: Tensor) -> None:
        means = activation.float().abs().mean(dim=1)
        self.sums[self.key] += means.double().square().sum(dim=0).cpu().numpy()

    def _add_heads(self, activation: Tensor) -> None:
        self._add(activation.float().unflatten(-1, (self.shape[0], -1)).norm(dim=-1))


class HiddenCollector:
    """Hidden channels at a block's norm: ``sums`` as in Collector; blocks' scores add up (arXiv:2407.14679, F_emb)."""

    def __init__(self, block: Block, module: nn.Module) -> None:
        self.module: Any = module
        self.sums: dict[str, NDArray[np.float64]] = {"hidden": np.zeros(block.hidden)}
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> HiddenCollector:
        self.handles.append(self.module.norm.register_forward_hook(self._hook()))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """"hidden" [hidden]: this block's part."""
        return {"hidden": np.sqrt(self.sums["hidden"])}

    def _hook(self) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            means = output.float().abs().mean(dim=1)
            self.sums["hidden"] += means.double().square().sum(dim=0).cpu().numpy()

        return add


def hidden_collector(block: Block, module: nn.Module) -> HiddenCollector:
    """The collector of the hidden axis for one block."""
    return HiddenCollector(block, module)


def footprint_hooks(block: Block) -> Callable[[nn.Module], None]:
    """Puts hooks on a module of "meta" tensors that allocate what the collectors do and keep nothing."""

    def read(activation: Tensor) -> None:
        activation.float().abs().mean(dim=1)

    def watch(module: Any) -> None:
        module.norm.register_forward_hook(lambda m, i, output: read(output))
        if isinstance(block, Mamba2):
            module.in_proj.register_forward_hook(lambda m, i, output: read(output[..., block.inner : 2 * block.inner]))
        else:
            last = module.o_proj if isinstance(block, Attention) else module.down_proj
            last.register_forward_pre_hook(lambda m, inputs: read(inputs[0]))

    return watch


def _shape(block: Block) -> tuple[str, tuple[int, ...]]:
    if isinstance(block, Mamba2):
        return "head_channels", (block.heads, block.head_dim)
    if isinstance(block, FeedForward):
        return "intermediate", (block.intermediate,)
    return "q_heads", (block.q_heads,)


