"""What an architecture costs, by formulas. Imports no torch."""

from minipuzzle.cost.flops import flops_per_token
from minipuzzle.cost.memory import BYTES, Memory, Workload, memory

__all__ = ["BYTES", "Memory", "Workload", "flops_per_token", "memory"]
