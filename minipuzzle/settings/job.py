"""What all commands have: a checkpoint, a run directory, a device, JSON for scripts. No torch."""

from __future__ import annotations

from pathlib import Path

from minipuzzle.settings.declare import setting

RUN = Path("minipuzzle-run")
PANEL = "Run"


def checkpoint(help: str = "Checkpoint folder (default: the run's).") -> Path | None:
    """The checkpoint that a command is about, as an argument that may be left out."""
    return setting(None, help, argument=True, name="job.checkpoint")


def run_directory(default: Path = RUN) -> Path:
    """The folder that the commands of a run share."""
    return setting(
        default,
        "Run directory, which all commands of a run share.",
        short="r",
        panel=PANEL,
        common=True,
        name="job.run",
    )


def device() -> str:
    """Where to compute."""
    return setting(
        "auto", "Where to compute: auto, cpu or cuda.", panel=PANEL, common=True, name="job.device"
    )


def as_json() -> bool:
    """Whether to print for scripts."""
    return setting(
        False, "Print JSON for scripts.", flag="json", panel=PANEL, common=True, name="job.json"
    )


def dtype() -> str:
    """The dtype of weights and activations where nothing is trained."""
    return setting(
        "auto",
        "Weights and activations: auto (bf16 on CUDA, fp32 elsewhere), fp32 or bf16.",
        panel=PANEL,
        name="job.dtype",
    )
