"""The command line that benchmarks of one block share, and what their results say of the run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers


def parsed(doc: str | None, **sizes: int) -> argparse.Namespace:
    """``--device``, ``--out`` and a number each of ``sizes``, with its default."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def about(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The sizes, the device and the libraries."""
    return {
        "shape": {k: v for k, v in vars(options).items() if isinstance(v, int)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
