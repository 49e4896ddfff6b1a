"""minipuzzle's trainer on a given student; also what every student's loss is measured by. Needs
this repository on its path.

request: {"student", "teacher", "train": .npy [n, length], "report": .npy, "tokens", "rate",
"batch", "seed", "out"}, tokens 0 for only measuring. answer: {"before", "after", "parameters",
"pattern", "widths", "heads", "checkpoint"}.
"""

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from common import answer, request

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.metrics import measure
from minipuzzle.model import load_model
from minipuzzle.runs.distill import write_student
from minipuzzle.settings import Training
from minipuzzle.training import distillation, train


def blocks(path: str) -> TokenBlocks:
    """The token blocks in a file; documents are not told apart."""
    tokens = np.load(path)
    digest = hashlib.sha256(tokens.tobytes()).hexdigest()[:16]
    return TokenBlocks(
        tokens=tokens, documents=np.zeros(tokens.shape, np.int32), fingerprint=digest, text_bytes=0
    )


if __name__ == "__main__":
    asked = request()
    file, device = Checkpoint.open(Path(asked["student"])), torch.device("cpu")
    model = load_model(file, device=device).eval()
    report, shape = blocks(asked["report"]), file.architecture.blocks
    values = {
        "before": measure(model, report).loss,
        "parameters": file.parameters,
        "pattern": file.architecture.pattern,
        "widths": [b.sizes["intermediate"] for b in shape if b.kind == "mlp"],
        "heads": [b.sizes["heads"] for b in shape if b.kind == "mamba"],
    }
    if asked["tokens"]:
        teacher = (
            load_model(Checkpoint.open(Path(asked["teacher"])), device=device)
            .eval()
            .requires_grad_(False)
        )
        settings = Training(
            tokens=asked["tokens"],
            learning_rate=asked["rate"],
            batch=asked["batch"],
            seed=asked["seed"],
            save_every=1e9,
        )
        started, cpu = time.monotonic(), time.process_time()
        train(
            model,
            distillation(teacher),
            blocks(asked["train"]),
            settings,
            Path(asked["out"] + "-run"),
            identity="peers",
        )
        values |= {
            "train_seconds": time.monotonic() - started,
            "train_cpu_seconds": time.process_time() - cpu,
        }
        write_student(file, model.state_dict().__getitem__, Path(asked["out"]))
        values |= {"after": measure(model, report).loss, "checkpoint": asked["out"]}
    if asked.get("logits"):
        with torch.no_grad():
            probe = torch.from_numpy(np.load(asked["probe"]).astype(np.int64))
            np.save(asked["logits"], (model.hidden_states(probe) @ model.head_weight.t()).numpy())
    answer(("minipuzzle", "torch"), **values)
