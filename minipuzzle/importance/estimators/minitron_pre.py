"""As minitron, but FFN channels before the activation (arXiv:2504.03624, literally).

FFN: MeanAbsolute of X W1^T; where there is a gate, of up.
"""

from __future__ import annotations

from minipuzzle.importance.estimators.base import Activations
from minipuzzle.importance.estimators.minitron import mean_norm

ESTIMATOR = Activations(
    source="arXiv:2504.03624",
    points=("before_convolution", "before_activation", "channels"),
    reading=mean_norm,
)
