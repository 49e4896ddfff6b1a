"""What every peer's script shares: the request, the teacher in stock transformers, the answer with
peak memory.

Scripts are called as SCRIPT request.json answer.json. A pruner's request: {"teacher",
"calibration": .npy [n, length], "budgets": {name: parameters}, "out"}; its answer: {"students":
{name: {"checkpoint": folder} or {"selection": blocks} or {"error"}}}. A selection names what each
block keeps, or null for a block that goes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def request() -> dict[str, Any]:
    """The request; the clock starts here, after imports."""
    global _started
    _started = time.monotonic()
    return json.loads(Path(sys.argv[1]).read_text())


def answer(packages: tuple[str, ...], **values: Any) -> None:
    """Write the answer with wall seconds since the request, CPU seconds and peak memory [MiB] of
    the process, versions.
    """
    peak = (
        max(
            resource.getrusage(who).ru_maxrss
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        / 1024
    )
    values |= {
        "seconds": time.monotonic() - _started,
        "cpu_seconds": sum(os.times()[:4]),
        "peak_mib": peak,
        "versions": {p: _version(p) for p in packages},
    }
    Path(sys.argv[2]).write_text(json.dumps(values))


def load(path: str) -> Any:
    """A causal model of transformers in FP32, without the clamp of dt that this version adds in
    prefill.

    Our checkpoints whose blocks differ bring their model classes; no other checkpoint's code is
    run.
    """
    classes = "block_configs" in json.loads((Path(path) / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, trust_remote_code=classes
    ).eval()
    for layer in model.base_model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = (0.0, float("inf"))
    return model


def batches(path: str, size: int = 8, count: int | None = None) -> list[torch.Tensor]:
    """The token blocks in a file as batches [size, length] int64."""
    tokens = torch.from_numpy(np.load(path)[:count].astype(np.int64))
    return list(tokens.split(size))


def parameters(model: Any) -> int:
    """All parameters."""
    return sum(p.numel() for p in model.parameters())


def kind(layer: Any) -> str:
    """ "mlp", "mamba" or "attention"."""
    if hasattr(layer.mixer, "down_proj"):
        return "mlp"
    return "mamba" if hasattr(layer.mixer, "A_log") else "attention"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


_started = 0.0
