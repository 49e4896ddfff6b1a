"""Next-token loss on the text itself, as in pre-training."""

from __future__ import annotations

from minipuzzle.training.losses.base import TargetLoss

LOSS = TargetLoss(source="language modelling")
