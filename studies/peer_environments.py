"""A virtual environment for each peer, and calling a script in it: JSON in, JSON out, an error
where it fails.

An environment holds what the peer pins; torch, numpy, scipy and whatever else its pins allow are
read from the environment that this runs in, through a ``.pth`` file, so torch is not installed once
more for each.
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
}
"""What pip installs for each peer (../shared/reference/peers.md, section 5)."""


def environment(folder: Path, peer: str) -> Path:
    """The peer's python; makes its environment where it is missing. Raises: RuntimeError with pip's
    last line.
    """
    home = folder / peer
    python, done = home / "bin" / "python", home / "installed.json"
    if done.exists() and json.loads(done.read_text()) == list(PACKAGES[peer]):
        return python
    venv.create(home, with_pip=True, clear=True)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "zz_base.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        *PACKAGES[peer],
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"pip install {' '.join(PACKAGES[peer])}: {last_line(result.stderr)}")
    done.write_text(json.dumps(list(PACKAGES[peer])))
    return python


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
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "WANDB_DISABLED": "true",
        "PYTHONPATH": see,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
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
                env={**os.environ, **quiet},
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
