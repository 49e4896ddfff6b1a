"""Students and trainers of studies/peers.py: distilled, measured and reloaded by transformers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peer_environments import call, environment

from minipuzzle import embedded
from minipuzzle.data import TokenBlocks
from minipuzzle.settings import Training

PRUNERS = {
    "ours": ("", "ours_prune"),
    "nvidia-modelopt": ("modelopt", "modelopt_prune"),
    "Torch-Pruning": ("torch-pruning", "torch_pruning_prune"),
    "optipfair (depth)": ("optipfair", "optipfair_prune"),
    "magnitude": ("", "magnitude_prune"),
    "mergekit (control)": ("mergekit", "mergekit_prune"),
}
"""Name -> (environment, script); "" is the environment that this runs in."""


REPOSITORY = str(Path(__file__).parent.parent)


LENGTH, BATCH = 256, 8


CALIBRATION, REPLACE, REPORT = 32, 8, 64


TRAINERS = {
    "ours": ("", "ours_train"),
    "KDTrainer (nvidia-modelopt)": ("modelopt", "modelopt_train"),
    "GKDTrainer (TRL)": ("trl", "trl_train"),
    "DistillKit": ("distillkit", "distillkit_train"),
}
"""DistillKit is in no registry: making its environment fails, which is its row; a script is for
when it does not.
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rows share."""

    envs: Path
    work: Path
    budgets: dict[str, int]
    tokens: int
    trainer_tokens: int
    rate: float
    seeds: int
    seconds: float

    def call(self, peer: str, script: str, request: dict[str, Any]) -> dict[str, Any]:
        """A script's answer from its environment, with one thread; an environment that cannot be
        made is an error.
        """
        try:
            python = environment(self.envs, peer) if peer else Path(sys.executable)
        except RuntimeError as error:
            return {"error": str(error)}
        return call(
            python, script, request, seconds=self.seconds, threads=1, see="" if peer else REPOSITORY
        )


def recover(
    setting: Setting, name: str, budget: str, student: dict[str, Any], seed: int
) -> dict[str, Any]:
    """A pruner's row: its student measured, reloaded by transformers and distilled by our
    trainer.
    """
    row = {"part": "pruner", "peer": name, "budget": budget, "seed": seed, **student}
    if "error" in student:
        return row
    tag = f"{PRUNERS[name][1]}-{budget}-{seed}"
    found = measured(setting, student["checkpoint"], tag, setting.tokens, seed)
    row |= {**found, "train_peak_mib": found.get("peak_mib"), "checkpoint": student["checkpoint"]}
    if seed == 0:
        row["reload"] = reload(setting, student["checkpoint"], tag)
    if "error" not in row:
        row["within"] = row["parameters"] <= setting.budgets[budget]
    return row


def train(setting: Setting, name: str, student: str) -> dict[str, Any]:
    """A trainer's row: the same student, tokens, order of blocks and learning rate."""
    peer, script = TRAINERS[name]
    row: dict[str, Any] = {"part": "trainer", "peer": name, "seed": 0}
    out = str(setting.work / f"trained-{script}")
    settings = Training(tokens=setting.trainer_tokens, batch=BATCH, learning_rate=setting.rate)
    steps = settings.steps(LENGTH)
    if not peer:
        found = measured(setting, student, "trainer", setting.trainer_tokens, 0)
    else:
        order = setting.work / f"order-{script}.npy"
        np.save(order, in_our_order(np.load(setting.work / "train.npy"), settings, steps))
        request = {
            "student": student,
            "teacher": str(embedded.teacher_path()),
            "train": str(order),
            "out": out,
            "seed": 0,
            "rate": setting.rate,
            "batch": BATCH,
            "length": LENGTH,
            "final_ratio": settings.final_ratio,
            "warmup_steps": round(settings.warmup * steps),
            "weight_decay": settings.weight_decay,
            "clip": settings.clip,
        }
        found = setting.call(peer, script, request)
    row |= {
        "train_seconds": found.get("train_seconds"),
        "train_cpu_seconds": found.get("train_cpu_seconds"),
        "train_peak_mib": found.get("peak_mib"),
        "versions": found.get("versions"),
    }
    if "error" in found:
        return {**row, "error": found["error"]}
    result = (
        found
        if not peer
        else {"after": measured(setting, found["checkpoint"], script).get("before")}
    )
    before = measured(setting, student, f"{script}-student")
    return {
        **row,
        "before": before.get("before"),
        "after": result["after"],
        "parameters": before.get("parameters"),
        "reload": reload(setting, found["checkpoint"], f"trained-{script}"),
    }


def in_our_order(tokens: np.ndarray, settings: Training, steps: int) -> np.ndarray:
    """[steps * batch, length]: the blocks as our loop takes them."""
    blocks = TokenBlocks(
        tokens=tokens, documents=np.zeros(tokens.shape, np.int32), fingerprint="", text_bytes=0
    )
    return np.concatenate(
        [blocks.batch(step, settings.batch, settings.seed)[0] for step in range(steps)]
    )


def measured(
    setting: Setting, student: str, tag: str, tokens: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Our trainer's answer for a student: loss before, and after ``tokens`` of distillation."""
    work = setting.work
    request = {
        "student": student,
        "teacher": str(embedded.teacher_path()),
        "train": str(work / "train.npy"),
        "report": str(work / "report.npy"),
        "tokens": tokens,
        "rate": setting.rate,
        "batch": BATCH,
        "seed": seed,
        "out": str(work / f"recovered-{tag}"),
        "probe": str(work / "probe.npy"),
        "logits": str(work / f"ours-{tag}.npy"),
    }
    return setting.call("", "ours_train", request)


def reload(setting: Setting, checkpoint: str, tag: str) -> dict[str, Any]:
    """Whether transformers loads a file whole, by itself or with the classes shipped in it, and
    whose logits it has.
    """
    ours = setting.work / f"reload-{tag}-ours.npy"
    asked = {
        "student": checkpoint,
        "report": str(setting.work / "probe.npy"),
        "tokens": 0,
        "probe": str(setting.work / "probe.npy"),
        "logits": str(ours),
    }
    known = setting.call("", "ours_train", asked)
    tried: dict[str, Any] = {}
    for how, classes in (("stock", False), ("shipped classes", True)):
        theirs = setting.work / f"reload-{tag}.npy"
        request = {
            "checkpoint": checkpoint,
            "tokens": str(setting.work / "probe.npy"),
            "logits": str(theirs),
            "classes": classes,
        }
        answer = setting.call("", "reload", request)
        if "error" not in answer and not answer["lost"]:
            difference = None if "error" in known else relative(np.load(ours), np.load(theirs))
            return {"how": how, "difference": difference}
        tried[how] = answer.get("error") or f"lost tensors: {answer['lost']}"
    return {"how": "no", "why": tried}


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference as a share of the largest logit."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
