"""What a profile (torch.profiler's Chrome trace, with shapes) says of the exchange between GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

BYTES = {
    "float": 4,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "unsigned char": 1,
    "c10::Float8_e4m3fn": 1,
}
GATHERS = {"c10d::_allgather_base_": "all_gather", "c10d::_reduce_scatter_base_": "reduce_scatter"}
"""The operations of FSDP2: (whole, part) and (part, whole) come first among their inputs."""

Spans = list[tuple[float, float]]


def traffic(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the profiled steps of one process: the bytes of a process's ``part`` of what was gathered
    and summed, by operation (it sends that to each other process), their number, and seconds of the
    GPU by what ran: ``nccl`` kernels, others (``compute``), and nccl while no other ran
    (``exposed``).

    Raises: KeyError for a dtype that is not in ``BYTES``.
    """
    part = dict.fromkeys(GATHERS.values(), 0)
    count = dict.fromkeys(GATHERS.values(), 0)
    kernels: dict[bool, Spans] = {True: [], False: []}
    for event in events:
        name, given = str(event.get("name")), event.get("args", {})
        if name in GATHERS and event.get("cat") == "cpu_op":
            sizes = [
                prod(dims) * BYTES[kind]
                for dims, kind in zip(given["Input Dims"][:2], given["Input type"], strict=False)
            ]
            part[GATHERS[name]] += min(sizes)
            count[GATHERS[name]] += 1
        elif event.get("cat") == "kernel":
            began = event["ts"] / 1e6
            kernels["nccl" in name.lower()].append((began, began + event["dur"] / 1e6))
    nccl, compute = merged(kernels[True]), merged(kernels[False])
    return {
        "part_bytes": part,
        "count": count,
        "nccl_s": length(nccl),
        "compute_s": length(compute),
        "exposed_s": length(merged([*nccl, *compute])) - length(compute),
    }


def merged(spans: Iterable[tuple[float, float]]) -> Spans:
    """Spans without overlap that cover the same."""
    found: Spans = []
    for began, ended in sorted(spans):
        if found and began <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ended))
        else:
            found.append((began, ended))
    return found


def length(spans: Spans) -> float:
    """Of spans without overlap."""
    return sum(ended - began for began, ended in spans)
