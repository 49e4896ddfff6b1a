"""Scores of FFN channels and Mamba head channels from one calibration pass.

A channel's score is its mean absolute activation over the sequence, then the L2 norm over the batch: the aggregation
that arXiv:2407.14679 found best. FFN channels are read at X W1^T (arXiv:2504.03624, section on MiniPuzzle), Mamba
channels at the raw x projection LN(X) Wx^T, before the convolution (arXiv:2504.11409, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.arch import FeedForward, Mamba2
from minipuzzle.model import HybridLM
from minipuzzle.recipe import FFNScore


class WidthScores:
    """Running sums of squares, float64, one array a block; attach to a model, run batches, read ``squares``.

    ``ffn`` "pre" reads X W1^T, negatives by their size too; "post" reads relu2(X W1^T), what NVIDIA's code hooks.
    """

    def __init__(self, model: HybridLM, ffn: FFNScore = "pre") -> None:
        self.model = model
        self.ffn = ffn
        self.squares: dict[int, NDArray[np.float64]] = {}
        for i, block in enumerate(model.architecture.blocks):
            if isinstance(block, FeedForward):
                self.squares[i] = np.zeros(block.intermediate)
            if isinstance(block, Mamba2):
                self.squares[i] = np.zeros(block.inner)

    def __enter__(self) -> WidthScores:
        self.handles: list[RemovableHandle] = []
        for i in self.squares:
            block = self.model.architecture.blocks[i]
            module: Any = self.model.blocks[i]
            if isinstance(block, Mamba2):
                part = slice(block.inner, 2 * block.inner)
                self.handles.append(module.in_proj.register_forward_hook(self._after(i, part)))
            elif self.ffn == "pre":
                self.handles.append(module.up_proj.register_forward_hook(self._after(i, slice(None))))
            else:
                self.handles.append(module.down_proj.register_forward_pre_hook(self._before(i)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _add(self, index: int, activation: Tensor) -> None:
        means = activation.float().abs().mean(dim=1)  # [batch, channels]
        self.squares[index] += means.double().square().sum(dim=0).cpu().numpy()

    def _after(self, index: int, part: slice) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _inputs, output: self._add(index, output[..., part])

    def _before(self, index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: self._add(index, inputs[0])

    def scores(self) -> tuple[dict[int, NDArray[np.float64]], dict[int, NDArray[np.float64]]]:
        """(FFN block -> [intermediate], Mamba block -> [heads, head_dim])."""
        intermediate, head_channels = {}, {}
        for i, squares in self.squares.items():
            block = self.model.architecture.blocks[i]
            if isinstance(block, Mamba2):
                head_channels[i] = np.sqrt(squares).reshape(block.heads, block.head_dim)
            else:
                intermediate[i] = np.sqrt(squares)
        return intermediate, head_channels


@torch.no_grad()
def add_batch(scores: WidthScores, tokens: Tensor) -> None:
    """Let a batch of calibration tokens [b, s] pass through the model under ``scores``."""
    scores.model.hidden_states(tokens)
