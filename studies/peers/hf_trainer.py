"""Hugging Face's Trainer set as our loop is: AdamW, cosine with warm-up, clipping, blocks in the
given order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, SequentialSampler


class Blocks(Dataset):
    """Token blocks [n, length] as rows in the order in which they are trained on."""

    def __init__(self, path: str) -> None:
        self.tokens = torch.from_numpy(np.load(path).astype(np.int64))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.tokens[index]
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row}


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows stacked."""
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def arguments(asked: dict[str, Any]) -> dict[str, Any]:
    """TrainingArguments that say what minipuzzle's recipe says."""
    return {
        "output_dir": asked["out"] + "-trainer",
        "learning_rate": asked["rate"],
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": asked["final_ratio"]},
        "warmup_steps": asked["warmup_steps"],
        "weight_decay": asked["weight_decay"],
        "adam_beta2": 0.95,
        "max_grad_norm": asked["clip"],
        "per_device_train_batch_size": asked["batch"],
        "num_train_epochs": 1,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 5,
        "disable_tqdm": True,
        "seed": asked["seed"],
        "gradient_checkpointing": False,
    }


def in_order(trainer_class: type) -> type:
    """A trainer that takes rows in the order of the file."""

    class InOrder(trainer_class):
        def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    return InOrder
