"""The trainers that benchmarks/distill_speed.py times: ours, a plain loop, TRL's and modelopt's."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distill_account import account
from random_checkpoint import random_weight

from minipuzzle.arch import Architecture
from minipuzzle.data import TokenBlocks
from minipuzzle.progress import Silent
from minipuzzle.settings import Training

WARM, STEPS, PROFILED = 10, 20, 10
"""Steps before the clock starts (Triton tunes its kernels meanwhile), steps timed, and profiled:
our loop tells every tenth."""


class Enough(Exception):
    """Raised out of a training loop once its steps are timed: nothing needs to be saved."""


class Clock:
    """Counts steps; times those after WARM. The peak is that of all: a step that has become a CUDA
    graph no longer allocates.
    """

    def __init__(self, device: torch.device, profile: bool) -> None:
        self.device, self.step, self.started, self.seconds, self.peak = device, 0, 0.0, 0.0, 0.0
        self.profiler = torch.profiler.profile() if profile and device.type == "cuda" else None
        self.found: dict[str, Any] = {}

    def tick(self, loss: float = float("nan"), steps: int = 1) -> None:
        """``steps`` more are done. Raises: Enough, with the loss, when all are."""
        self.step += steps
        cuda = self.device.type == "cuda"
        if self.step == WARM:
            self._sync()
            self.started = time.perf_counter()
        elif self.step == WARM + STEPS:
            self._sync()
            self.seconds = time.perf_counter() - self.started
            self.peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
            if self.profiler is None:
                raise Enough(str(loss))
            self.profiler.__enter__()
        elif self.profiler is not None and self.step == WARM + STEPS + PROFILED:
            self._sync()
            self.profiler.__exit__(None, None, None)
            step_ms = 1e3 * self.seconds / STEPS
            self.found["account"] = account(self.profiler.key_averages(), PROFILED, step_ms)
            raise Enough(str(loss))

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def tokens(architecture: Architecture, options: argparse.Namespace) -> np.ndarray[Any, Any]:
    """[rows, length] of random tokens, enough for every step."""
    shape = (options.batch * (WARM + STEPS + PROFILED + 1), options.length)
    return np.random.default_rng(0).integers(0, architecture.vocab_size, shape, dtype=np.uint32)


def ours(
    teacher_shape: Architecture,
    shape: Architecture,
    rows: Any,
    options: Any,
    clock: Clock,
    row: str,
) -> float:
    """Our loop, as ``minipuzzle distill`` runs it."""
    from minipuzzle.model import keep_codes, set_precision
    from minipuzzle.training import distillation, train

    teacher, student = our_models(teacher_shape, shape, options.device)
    blocks = TokenBlocks(
        tokens=rows, documents=np.zeros(rows.shape, np.int32), fingerprint="random", text_bytes=1
    )
    precision = "fp8" if "fp8" in row else "bf16"
    settings = Training(
        tokens=rows.size,
        batch=options.batch,
        micro_batch=options.micro_batch,
        learning_rate=1e-4,
        precision=precision,
        bf16_ends=0 if "fp8-all" in row else 4,
        optimizer="adamw-8bit-bf16" if "lean" in row else "adamw",
        save_every=1e9,
    )
    set_precision(
        teacher, precision if "both" in row or "all" in row else "bf16", settings.bf16_ends
    )
    keep_codes(teacher)
    done = [0]

    class Clock(Silent):
        def update(self, completed: float, **numbers: float) -> None:
            step = int(completed) // (options.batch * options.length)
            if step > done[0]:
                steps, done[0] = step - done[0], step
                clock.tick(numbers["loss"], steps)

    with tempfile.TemporaryDirectory() as folder:
        return train(
            student,
            distillation(teacher),
            blocks,
            settings,
            Path(folder),
            identity="speed",
            progress=Clock(),
        )


def our_models(teacher_shape: Architecture, shape: Architecture, device: str) -> tuple[Any, Any]:
    """Our models with random weights, the teacher's matrices in BF16; drawn on the device, as a CPU
    takes minutes for 12 B numbers.
    """
    from minipuzzle.kernels import choose
    from minipuzzle.model import HybridLM, frozen_model

    made, kernels = [], choose(torch.device(device))
    for seed, model in enumerate(
        (
            frozen_model(teacher_shape, torch.device(device), kernels=kernels),
            HybridLM(shape, device=device, dtype=torch.float32, kernels=kernels),
        )
    ):
        generator, depth = torch.Generator(device).manual_seed(seed), len(model.blocks)
        values = model.state_dict()
        for tensor in model.architecture.tensors():
            values[tensor.name].copy_(random_weight(tensor, depth, generator))
        made.append(model)
    return made[0], made[1]


def hf_models(teacher_shape: Architecture, shape: Architecture, device: str) -> tuple[Any, Any]:
    """transformers' models of the same sizes with random weights, the teacher in BF16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from minipuzzle.families import nemotron_h

    made = []
    for architecture, dtype in ((teacher_shape, torch.bfloat16), (shape, torch.float32)):
        config = dict(nemotron_h.config(architecture, {}))
        config = AutoConfig.for_model(
            config.pop("model_type"), **{k: v for k, v in config.items() if k != "architectures"}
        )
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        count = sum(p.numel() for p in model.parameters())
        assert count == architecture.parameters, (count, architecture.parameters)
        model.config.use_cache = False
        made.append(model)
    return made[0].eval().requires_grad_(False), made[1].train()


def full_logits_loop(
    logits: Callable[[Any, Any], Any],
    teacher: Any,
    student: Any,
    rows: Any,
    options: Any,
    clock: Clock,
) -> float:
    """What everyone writes first: both models' logits, FP32 softmax, fused AdamW."""
    optimizer = torch.optim.AdamW(
        student.parameters(),
        lr=1e-4,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=options.device == "cuda",
    )
    loss = torch.zeros(())
    for start in range(0, len(rows), options.batch):
        batch = torch.from_numpy(rows[start : start + options.batch].astype(np.int64)).to(
            options.device
        )
        with torch.autocast(options.device, dtype=torch.bfloat16):
            with torch.no_grad():
                target = logits(teacher, batch)
            mine = logits(student, batch)
        s, t = torch.log_softmax(mine.float(), -1), torch.log_softmax(target.float(), -1)
        loss = torch.nn.functional.kl_div(
            s.flatten(0, 1), t.flatten(0, 1), log_target=True, reduction="batchmean"
        )
        del mine, target, s, t
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.tick(loss.item() if clock.step >= WARM + STEPS - 1 else 0.0)
    return loss.item()


def plain(
    teacher_shape: Architecture, shape: Architecture, rows: Any, options: Any, clock: Clock
) -> float:
    """transformers' model, full logits."""
    teacher, student = hf_models(teacher_shape, shape, options.device)
    return full_logits_loop(
        lambda m, x: m(input_ids=x, use_cache=False).logits, teacher, student, rows, options, clock
    )


def plain_ours(
    teacher_shape: Architecture, shape: Architecture, rows: Any, options: Any, clock: Clock
) -> float:
    """Our model, full logits rounded to BF16 as autocast does: what the loss alone buys."""
    teacher, student = our_models(teacher_shape, shape, options.device)

    def logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(model.hidden_states(batch), model.head_weight)

    return full_logits_loop(logits, teacher, student, rows, options, clock)


def trainer_parts(rows: Any, options: Any, clock: Clock) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keywords of TrainingArguments, of a Trainer) that all rows of transformers' trainers
    share.
    """
    from datasets import Dataset
    from transformers import TrainerCallback

    class Tick(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick()

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(np.array([item["input_ids"] for item in items]))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    arguments = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": options.batch,
        "max_steps": WARM + STEPS + PROFILED,
        "learning_rate": 1e-4,
        "bf16": options.device == "cuda",
        "use_cpu": options.device == "cpu",
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "remove_unused_columns": False,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": options.device == "cuda",
        "optim": "adamw_torch_fused" if options.device == "cuda" else "adamw_torch",
    }
    data = Dataset.from_dict({"input_ids": rows.tolist()})
    return arguments, {"train_dataset": data, "data_collator": collate, "callbacks": [Tick()]}


def trl(
    teacher_shape: Architecture, shape: Architecture, rows: Any, options: Any, clock: Clock
) -> float:
    """TRL's GKDTrainer on given text (lmbda 0), forward KL (beta 0)."""
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from minipuzzle import embedded

    teacher, student = hf_models(teacher_shape, shape, options.device)
    arguments, common = trainer_parts(rows, options, clock)
    config = GKDConfig(**arguments, lmbda=0.0, beta=0.0, temperature=1.0, max_length=options.length)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(embedded.teacher_path())
    GKDTrainer(
        model=student, teacher_model=teacher, args=config, processing_class=tokenizer, **common
    ).train()
    return float("nan")


def modelopt(
    teacher_shape: Architecture, shape: Architecture, rows: Any, options: Any, clock: Clock
) -> float:
    """NVIDIA Model Optimizer's KDTrainer."""
    from modelopt.torch.distill.plugins.huggingface import KDTrainer
    from transformers import TrainingArguments

    teacher, student = hf_models(teacher_shape, shape, options.device)
    arguments, common = trainer_parts(rows, options, clock)
    distill = {"teacher_model": teacher, "temperature": 1.0, "distill": True}
    KDTrainer(
        model=student, args=TrainingArguments(**arguments), distill_args=distill, **common
    ).train()
    return float("nan")
