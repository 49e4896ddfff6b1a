"""Generalised Jensen-Shannon with nine tenths of the teacher in the mixture: near reverse KL."""

from __future__ import annotations

from minipuzzle.training.divergences._jsd import generalised

DIVERGENCE = generalised(0.9)
