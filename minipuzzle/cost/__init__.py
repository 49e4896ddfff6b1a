"""Room 4: what an architecture costs. Analytic; no torch."""

from minipuzzle.cost.memory import BYTES, Memory, Workload, memory

__all__ = ["BYTES", "Memory", "Workload", "memory"]
