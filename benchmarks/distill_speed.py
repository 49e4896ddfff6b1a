"""Tokens/s and memory of one distillation step: ours in BF16 and FP8 against what people use.
docs/results/distill_speed.md.

    # all rows, a process each: about 9 minutes on an H100
    python benchmarks/distill_speed.py --out speed.json
    # the kernels that take the time
    python benchmarks/distill_speed.py --rows ours-fp8 --profile
    # does it run at all
    python benchmarks/distill_speed.py --tiny --device cpu --rows ours-bf16 plain

A hybrid teacher of 1.2 B parameters, a student of 1.0 B, 131,072 words, random tokens, 2 x 4096 a
step, forward KL, FP32 master weights, fused AdamW, BF16 teacher. Every row may use mamba-ssm and
causal-conv1d (transformers takes them when they are installed). ``ours-fp8-both`` has the teacher
in FP8 too. ``plain`` is transformers' model in a plain PyTorch loop with both models' full logits,
``plain-ours`` our model in that loop; ``trl`` is GKDTrainer (lmbda 0, beta 0), ``modelopt``
NVIDIA's KDTrainer. A row whose package cannot be imported says so. MFU counts the student's forward
and backward and the teacher's forward, against the BF16 peak.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _rows import in_process, tell

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import write_json
from minipuzzle.cost.training import peak_flops, training_flops
from minipuzzle.data import TokenBlocks
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.progress import Silent
from minipuzzle.settings import Training

ROWS = ("ours-bf16", "ours-fp8", "ours-fp8-both", "plain", "plain-ours", "trl", "modelopt")
WARM, STEPS = 10, 20
"""Steps before the clock starts (Triton tunes its kernels meanwhile) and steps timed."""


class Enough(Exception):
    """Raised out of a training loop once its steps are timed: nothing needs to be saved."""


def main() -> None:
    """Run each row in its own process, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--profile", action="store_true", help="print the kernels that take most time"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        tell(measure(options.row, options))
        return
    rows: list[dict[str, Any]] = []
    for row in options.rows:
        rows.append(measured(row, options))
        if options.out:  # after each: a call that runs out of time has told something
            write_json(
                options.out, {"rows": rows, "batch": options.batch, "length": options.length}
            )
    print(f"\n{'row':<12}{'tokens/s':>10}{'ms/step':>9}{'peak GiB':>10}{'MFU':>8}{'loss':>9}")
    for row in rows:
        if "error" in row:
            print(f"{row['row']:<12}{row['error'][:110]}")
        else:
            print(
                f"{row['row']:<12}{row['tokens_per_second']:>10,.0f}{row['step_ms']:>9.1f}{row['peak_gib']:>10.2f}"
                f"{row['mfu']:>8.1%}{row['loss']:>9.4f}"
            )


def measured(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row from a process of its own."""
    print(f"{row} ...", flush=True)
    flags = ["--tiny"] * options.tiny + ["--profile"] * options.profile
    result, printed = in_process(
        __file__,
        row,
        "--device",
        options.device,
        "--batch",
        options.batch,
        "--length",
        options.length,
        *flags,
    )
    if options.profile:
        print(printed)
    return result


def architectures(tiny: bool) -> tuple[Architecture, Architecture]:
    """(teacher, student)."""
    hidden, vocab = (64, 512) if tiny else (2048, 131072)
    heads, groups, state = (16, 2, 16) if tiny else (64, 8, 128)
    m = Mamba2(
        hidden=hidden,
        heads=heads,
        head_dim=hidden // 32 if not tiny else 8,
        groups=groups,
        state=state,
        chunk_size=32 if tiny else 128,
    )
    f = FeedForward(hidden=hidden, intermediate=4 * hidden)
    a = Attention(
        hidden=hidden,
        q_heads=4 if tiny else 16,
        kv_heads=2 if tiny else 4,
        attn_head_dim=16 if tiny else 128,
    )
    blocks: tuple[Block, ...] = (m, f, m, f, m, a, f, m, f, m, f, m, f, m, a, f, m, f, m, f, m, f)
    teacher = Architecture(vocab_size=vocab, hidden=hidden, blocks=blocks)
    narrow = replace(f, intermediate=11 * hidden // 4)
    kept = [
        narrow if isinstance(b, FeedForward) else b
        for i, b in enumerate(blocks)
        if i not in (10, 11)
    ]
    return teacher, replace(teacher, blocks=tuple(kept))


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    teacher, student = architectures(options.tiny)
    clock = Clock(torch.device(options.device), options.profile)
    rows = {"plain": plain, "plain-ours": plain_ours, "trl": trl, "modelopt": modelopt}
    run: Callable[..., float] = rows.get(row, ours)
    try:
        loss = run(
            teacher,
            student,
            tokens(student, options),
            options,
            clock,
            **({"row": row} if run is ours else {}),
        )
    except Enough as enough:
        loss = float(str(enough))
    per_step = options.batch * options.length
    speed = per_step * STEPS / clock.seconds
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    flops = training_flops(student, options.length, teacher)
    return {
        "row": row,
        "tokens_per_second": speed,
        "step_ms": 1e3 * clock.seconds / STEPS,
        "peak_gib": clock.peak,
        "mfu": speed * flops / (peak_flops(name) or float("nan")),
        "loss": loss,
        "device": name,
        "torch": torch.__version__,
        "student_parameters": student.parameters,
        "teacher_parameters": teacher.parameters,
        "flops_per_token": flops,
    }


class Clock:
    """Counts steps; times those after WARM."""

    def __init__(self, device: torch.device, profile: bool) -> None:
        self.device, self.step, self.started, self.seconds, self.peak = device, 0, 0.0, 0.0, 0.0
        self.profiler = torch.profiler.profile() if profile else None

    def tick(self, loss: float = float("nan"), steps: int = 1) -> None:
        """``steps`` more are done. Raises: Enough, with the loss, when all are."""
        self.step += steps
        if self.step == WARM:
            self._sync()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            if self.profiler:
                self.profiler.__enter__()
            self.started = time.perf_counter()
        elif self.step == WARM + STEPS:
            self._sync()
            self.seconds = time.perf_counter() - self.started
            self.peak = (
                torch.cuda.max_memory_allocated() / 2**30
                if self.device.type == "cuda"
                else float("nan")
            )
            if self.profiler:
                self.profiler.__exit__(None, None, None)
                averages = self.profiler.key_averages()
                print(
                    averages.table(
                        sort_by="self_device_time_total", row_limit=30, max_name_column_width=70
                    )
                )
            raise Enough(str(loss))

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def tokens(architecture: Architecture, options: argparse.Namespace) -> np.ndarray[Any, Any]:
    """[rows, length] of random tokens, enough for every step."""
    shape = (options.batch * (WARM + STEPS + 1), options.length)
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
    from minipuzzle.model import set_precision
    from minipuzzle.training import distillation, train

    teacher, student = our_models(teacher_shape, shape, options.device)
    blocks = TokenBlocks(
        tokens=rows, documents=np.zeros(rows.shape, np.int32), fingerprint="random", text_bytes=1
    )
    precision = "fp8" if "fp8" in row else "bf16"
    settings = Training(
        tokens=rows.size,
        batch=options.batch,
        learning_rate=1e-4,
        precision=precision,
        save_every=1e9,
    )
    set_precision(teacher, precision if "both" in row else "bf16", settings.bf16_ends)
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
    """Our models with random weights, the teacher's matrices in BF16."""
    from minipuzzle.model import frozen, init_model

    return frozen(init_model(teacher_shape, 0, device=device)), init_model(shape, 1, device=device)


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
        clock.tick(loss.item() if clock.step == WARM + STEPS - 1 else 0.0)
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
        "max_steps": WARM + STEPS,
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


if __name__ == "__main__":
    main()
