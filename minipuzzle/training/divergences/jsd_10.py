"""Generalised Jensen-Shannon with a tenth of the teacher in the mixture: near forward KL."""

from __future__ import annotations

from minipuzzle.training.divergences._jsd import generalised

DIVERGENCE = generalised(0.1)
