"""Room 4: what an architecture costs. Analytic; no torch."""

from minipuzzle.cost.flops import Flops, flops_per_token
from minipuzzle.cost.memory import BYTES, Memory, Workload, memory

__all__ = ["BYTES", "Flops", "Memory", "Workload", "flops_per_token", "memory"]
