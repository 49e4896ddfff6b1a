"""What an architecture costs, by formulas. Imports no torch."""

from minipuzzle.cost.flops import flops_per_token

__all__ = ["flops_per_token"]
