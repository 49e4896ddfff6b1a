"""TRL's loss of on-policy distillation on our tiny models' logits: tests/golden/trl_losses.json.

    # trl 1.16.0 beside torch and transformers, in an environment of its own
    PYTHONPATH=.:tests python studies/trl_losses.py

``GKDTrainer.compute_loss`` takes the logits before each token of a completion, labels -100 where
there is padding, and a mean over what is left; its ``generalized_jsd_loss`` is what runs here.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

TARGET = Path(__file__).parent.parent / "tests" / "golden" / "trl_losses.json"
BETAS = {"forward-kl": 0.0, "jsd-10": 0.1, "jsd": 0.5, "jsd-90": 0.9, "reverse-kl": 1.0}


def main() -> None:
    """Write the loss and its gradient by two of the student's weights, by our name of the loss."""
    from on_policy_case import completions, models
    from trl.experimental.gkd import GKDTrainer

    found = {}
    for name, beta in BETAS.items():
        student, teacher = models()
        student.requires_grad_()
        tokens, prompt, ends = completions()
        labels = torch.full_like(tokens, -100)
        for row, end in enumerate(ends):
            labels[row, prompt:end] = tokens[row, prompt:end]
        loss = GKDTrainer.generalized_jsd_loss(
            student(tokens)[:, prompt - 1 : -1],
            teacher(tokens)[:, prompt - 1 : -1].detach(),
            labels=labels[:, prompt:],
            beta=beta,
        )
        loss.backward()
        norms = [
            student.head.weight.grad.norm().item(),
            student.embeddings.weight.grad.norm().item(),
        ]
        found[name] = {"loss": loss.item(), "gradient_norms": norms}
    TARGET.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
