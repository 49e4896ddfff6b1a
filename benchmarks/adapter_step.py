"""Time and memory of a training step: ours against PEFT's LoRA and VeRA on the same frozen model
and batch.

    python benchmarks/adapter_step.py --device cuda --out docs/results/adapter_step.json

A step is forward, next-token loss, backward and AdamW. Both start from ``load_frozen`` (BF16
matrices on CUDA), the same targets, rank and kernels; variants take turns round by round and
medians are compared, so that drift hits all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from minipuzzle import embedded
from minipuzzle.adapters import attach, make_plan
from minipuzzle.arch import Architecture
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.kernels import choose
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.model import HybridLM, load_frozen
from minipuzzle.settings import Training
from minipuzzle.training import mixed_precision, next_token
from minipuzzle.training.optimizers import make_optimizer

VARIANTS = ("peft lora", "lora", "tl5", "tl6", "peft vera", "vera")
ROUNDS = 12
PROJECTIONS = (
    "in_proj",
    "out_proj",
    "up_proj",
    "down_proj",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
)


def main() -> None:
    """Measure each model and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--models", default="embedded,wide")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    rows: list[dict[str, Any]] = []
    for name in options.models.split(","):
        rows += measure(name, device, options.rank, options.rounds)
        machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        write_json(
            options.out,
            {"device": machine, "torch": torch.__version__, "rank": options.rank, "rows": rows},
        )
    print(table(rows))


def measure(name: str, device: torch.device, rank: int, rounds: int) -> list[dict[str, Any]]:
    """One row a variant: median milliseconds a step and peak bytes of a step beyond what lies there
    before it.
    """
    rows = []
    batch, length = (8, 512) if name == "embedded" else (2, 2048)
    steps = {variant: Step(name, variant, rank, device, batch, length) for variant in VARIANTS}
    for step in steps.values():
        for _ in range(3):
            step.run()
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant, step in steps.items():
            seconds[variant].append(step.timed())
    for variant, step in steps.items():
        rows.append(
            {
                "model": name,
                "variant": variant,
                "batch": batch,
                "length": length,
                "trainable": step.trainable,
                "ms": 1e3 * statistics.median(seconds[variant]),
                "peak": step.peak(),
            }
        )
    return rows


class Step:
    """A model with one variant's adapters, its optimiser and a batch."""

    def __init__(
        self, name: str, variant: str, rank: int, device: torch.device, batch: int, length: int
    ) -> None:
        self.model = frozen(name, device)
        if variant.startswith("peft"):
            inject_peft(self.model, variant.split()[1], rank)
            self.model.to(device)
        else:
            attach(self.model, make_plan(self.model.architecture, variant, rank=rank))
        self.trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.optimizer = make_optimizer(self.model, Training())
        self.tokens = torch.randint(
            0, self.model.architecture.vocab_size, (batch, length), device=device
        )

    def run(self) -> None:
        """One step."""
        with mixed_precision(self.tokens.device):
            loss = next_token(self.model, self.tokens, None)
        (loss.total / loss.tokens).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def timed(self) -> float:
        """Seconds of one step."""
        synchronize()
        start = time.perf_counter()
        self.run()
        synchronize()
        return time.perf_counter() - start

    def peak(self) -> int:
        """Bytes that a step adds at its worst moment; 0 on a CPU."""
        if not torch.cuda.is_available():
            return 0
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.run()
        return torch.cuda.max_memory_allocated() - before


def inject_peft(model: HybridLM, kind: str, rank: int) -> None:
    """Put PEFT's own LoRA or VeRA into our model; its factors are trained in FP32."""
    from peft import LoraConfig, VeraConfig, inject_adapter_in_model
    from peft.tuners.vera import VeraModel

    targets = list(PROJECTIONS)
    if kind == "lora":
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), model)
    else:
        VeraModel(model, VeraConfig(r=rank, target_modules=targets), "default")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as PEFT does in get_peft_model


def frozen(name: str, device: torch.device) -> HybridLM:
    """The embedded teacher, or fresh weights of a wide hybrid (hidden 2048, the 8B's proportions)
    in the same dtypes.
    """
    if name == "embedded":
        return load_frozen(Checkpoint.open(embedded.teacher_path()), device=device)
    d = 2048
    kinds = {
        "M": Mamba2(hidden=d, heads=64, head_dim=64, groups=8, state=128),
        "-": FeedForward(hidden=d, intermediate=10752),
        "*": Attention(hidden=d, q_heads=16, kv_heads=4, attn_head_dim=128),
    }
    architecture = Architecture(
        vocab_size=32768, hidden=d, blocks=tuple(kinds[c] for c in "M-M-M*-M-M-M*-")
    )
    narrow = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = HybridLM(architecture, device=device, dtype=narrow, kernels=choose(device))
    generator = torch.Generator(device).manual_seed(0)
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1 or key == "embeddings.weight":
            parameter.data = parameter.data.float()
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, 0.02, generator=generator)
    return model.requires_grad_(False).eval()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, each variant against PEFT's LoRA of the same model."""
    lines = [
        (
            "| model | variant | trained | ms a step | against PEFT LoRA | MiB a step | against"
            " PEFT LoRA |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = next(r for r in rows if r["model"] == row["model"] and r["variant"] == "peft lora")
        memory = f"{row['peak'] / base['peak']:.2f}x" if base["peak"] else ""
        lines.append(
            f"| {row['model']} {row['batch']} x {row['length']} | {row['variant']} |"
            f" {row['trainable']:,} | {row['ms']:.1f} | {row['ms'] / base['ms']:.2f}x |"
            f" {row['peak'] / 2**20:,.0f} | {memory} |"
        )
    return "\n".join(lines)


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
