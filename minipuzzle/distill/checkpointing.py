"""The training state on disk: one safetensors file, whole or absent. A run that dies goes on from it bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from minipuzzle.artifacts import write_atomic
from minipuzzle.errors import UserError

NAME = "state.safetensors"


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Write parameters, optimiser moments and ``progress`` (step, identity of the run) to ``folder``."""
    tensors = {f"model.{name}": p.detach().contiguous().cpu() for name, p in model.named_parameters()}
    by_parameter: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            tensors[f"{key}.{by_parameter[parameter]}"] = torch.as_tensor(value).detach().contiguous().cpu()
    write_atomic(folder / NAME, save(tensors, metadata={"progress": json.dumps(progress)}))


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str
) -> dict[str, Any] | None:
    """Restore what ``save_state`` wrote and return its progress; None where nothing was saved yet.

    Raises: UserError where the state belongs to another run (other data, model or settings).
    """
    path = folder / NAME
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
        if progress["identity"] != identity:
            raise UserError(
                f"{folder} holds the training state of another run.", got=f"identity {progress['identity']}",
                allowed=f"identity {identity} (same model, teacher, data and settings)",
                next="Repeat the command with the settings it was started with, or delete that folder to start anew.",
            )  # fmt: skip
        stored = set(file.keys())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                moments = {key: f"{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
                if moments["step"] in stored:
                    device = {"step": torch.device("cpu")} if not _fused(optimizer) else {}
                    optimizer.state[parameter] = {
                        key: file.get_tensor(n).to(device.get(key, parameter.device)) for key, n in moments.items()
                    }
    return progress


def load_parameters(folder: Path, model: nn.Module) -> None:
    """Restore only the parameters of a saved state, for a run that goes on from another run's result."""
    with safe_open(folder / NAME, framework="pt") as file, torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(f"model.{name}"))


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))
