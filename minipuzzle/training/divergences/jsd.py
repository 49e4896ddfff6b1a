"""Jensen-Shannon: the mean KL of both to their even mixture."""

from __future__ import annotations

from minipuzzle.training.divergences._jsd import generalised

DIVERGENCE = generalised(0.5)
