"""What a mixture of experts did in a pass, as the point "routed" hands it over."""

from minipuzzle.kernels.experts import Routed

__all__ = ["Routed"]
