"""A model that computes with the weights that its quantised checkpoint will mean, while it is
trained: the straight-through estimator.

Within ``served`` each matrix holds code times scale, as compressed-tensors gives them; afterwards
the model has its own weights again. A gradient that was taken within goes to them as it is, which
is autograd's of ``w + (q(w) - w).detach()``. Source: arXiv:1308.3432 (the estimator),
arXiv:2601.20088 (distillation of a model in NVFP4).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from minipuzzle.export.compressed import Encoder
from minipuzzle.model import HybridLM


@contextmanager
def served(model: HybridLM, encoder: Encoder) -> Iterator[None]:
    """Within it the matrices of ``encoder``'s format are what the file's codes mean.

    They are rounded to the dtype that the checkpoint holds them in first, as they are before they
    are written. A matrix is changed in place: what holds on to it, such as a captured step, sees
    the rounded one. Takes a second copy of the matrices, in their own dtype.
    """
    dtypes = {name: encoder.held_dtype(name) for name in encoder.names}

    def held(name: str) -> Tensor:
        return model.get_parameter(name).detach().to(dtypes[name])

    encoder.measure(held)
    own: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name in encoder.names:
                weight = model.get_parameter(name).detach()
                parts = encoder.parts(name, held(name))
                meant = torch.cat([encoder.rounded(piece.name, part) for piece, part in parts])
                own[name] = weight.clone()
                weight.copy_(meant.view_as(weight))
        yield
    finally:
        with torch.no_grad():
            for name, kept in own.items():
                model.get_parameter(name).copy_(kept)
