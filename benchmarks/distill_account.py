"""What a training step's time goes into: seconds of kernels by what they do, from a profile."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

KINDS = {
    "AdamW": r"adamw|^_kernel$|multi_tensor",
    "attention": r"flash|fmha|sdpa",
    "products": r"nvjet|gemm|cutlass|xmma|wgmma|splitk",
    "convolution": r"causal_conv",
    "scan": r"_chunk|chunk_|state_passing|_bmm|cumsum|ssd|mamba",
    "FP8 casts and transposes": r"cast_transpose|transformer_engine|fp8|quantize|transpose",
    "norms": r"norm",
    "copies and casts": r"memcpy|memset|copy|fill",
    "compiled pointwise": r"^triton_",
    "sums": r"reduce",
}
"""The first whose expression is found in a kernel's name, in small letters; else "other"."""
SHOWN = 40
"""Kernels that are named, those that take most time."""


def account(events: Any, steps: int, step_ms: float) -> dict[str, Any]:
    """Milliseconds a step by kind and by kernel, of ``events`` (key_averages) of ``steps`` steps,
    each of which takes ``step_ms`` without a profiler; "nothing" is what is left of it.
    """
    times: dict[str, tuple[float, int]] = {}
    for event in events:
        kernel = event.device_type.name == "CUDA" and not event.is_user_annotation  # of several
        if kernel and event.self_device_time_total > 0:
            took, count = times.get(event.key, (0.0, 0))
            times[event.key] = took + event.self_device_time_total / 1e3, count + event.count
    kinds: dict[str, float] = defaultdict(float)
    for name, (took, _) in times.items():
        kinds[kind(name)] += took / steps
    kinds["nothing"] = step_ms - sum(kinds.values())
    ranked = sorted(times.items(), key=lambda item: -item[1][0])[:SHOWN]
    return {
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "kernels": [
            {"name": name[:120], "kind": kind(name), "ms": took / steps, "times": count / steps}
            for name, (took, count) in ranked
        ],
    }


def kind(name: str) -> str:
    """Of a kernel, by its name."""
    small = name.lower()
    return next((kind for kind, words in KINDS.items() if re.search(words, small)), "other")


def table(found: dict[str, Any]) -> str:
    """Both, in columns."""
    rows = [f"{kind:<28}{ms:>9.2f} ms" for kind, ms in found["kinds"].items()]
    rows += [
        f"{row['ms']:>9.3f} ms {row['times']:>7.1f} x  {row['kind']:<14.14} {row['name'][:90]}"
        for row in found["kernels"]
    ]
    return "\n".join(rows)
