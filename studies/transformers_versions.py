"""Written checkpoints in one version of transformers, logits against ours. Table:
docs/results/serving.md.

    # and "huggingface_hub<2" before 5.18
    pip install --no-deps --target /tmp/tf/5.17.0 transformers==5.17.0
    # CPU, 20 seconds a version
    PYTHONPATH=/tmp/tf/5.17.0:tests:benchmarks python studies/transformers_versions.py

The embedded teacher as read and written again, a cut of it with an FFN width a block, and a tiny
model of each other form in tests/family_models.py, all FP32 and longer than a chunk of Mamba-2.
transformers' clamp of dt is taken out (docs/decisions/dt-clamp.md).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch
import transformers
from conftest import shaken
from engines_checkpoints import student
from family_models import FORMS, unclamped

from minipuzzle import embedded, families
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.model import load_model

TOKENS = torch.arange(96)[None] % 119


def checkpoints(folder: Path) -> dict[str, Checkpoint]:
    """Name -> what we write."""
    teacher = Checkpoint.open(embedded.teacher_path())
    config = teacher.family.config(teacher.architecture, teacher.config)
    write_checkpoint(
        folder / "teacher", teacher.architecture, teacher.tensor, source=teacher, config=config
    )
    made = {"nemotron_h": Checkpoint.open(folder / "teacher"), "nemotron_h_puzzle": student(folder)}
    for name, forms in FORMS.items():
        for form, fields in forms.items() if name != "nemotron_h" else ():
            family, to = families.find(name), folder / f"{name}, {form}"
            architecture = family.architecture({"model_type": name, **fields})
            values = shaken(architecture).state_dict()
            write_checkpoint(
                to,
                architecture,
                lambda n, v=values: v[n].contiguous(),
                source=None,
                config=family.config(architecture, fields),
            )
            made[to.name] = Checkpoint.open(to)
    return made


@torch.no_grad()
def difference(checkpoint: Checkpoint) -> str:
    """The largest difference of any logit as a share of the largest, or the error's last line."""
    ours = load_model(checkpoint).float().eval()(TOKENS)
    options = {"dtype": torch.float32, "trust_remote_code": "auto_map" in checkpoint.config}
    try:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.path, **options)
    except Exception as error:  # whatever that version has to say against the file
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1].strip()[:150]}"
    logits = unclamped(theirs.eval())(TOKENS, use_cache=False).logits
    return f"{(logits - ours).abs().max() / ours.abs().max():.1e}"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, checkpoint in checkpoints(Path(folder)).items():
            print(f"{transformers.__version__:8} {name:40} {difference(checkpoint)}", flush=True)


if __name__ == "__main__":
    main()
