"""What follows the backward pass, and the casts that it saves the next forward pass, at an 8B's
student: ours beside PyTorch's.

    python benchmarks/adamw_step.py --device cuda --out adamw_step.json
    python benchmarks/adamw_step.py --layers 4 --divide 16          # a CPU, for the arithmetic

Of a student of 4.05 B parameters (27 blocks of the Nemotron-H-8B's sizes), whose products give BF16
gradients of its blocks' matrices and FP32 ones of the rest. "torch": they are widened, as autograd
does, ``clip_grad_norm_``, fused AdamW (on a CPU for each tensor), matrices cast, as autocast does.
"ours": the norm, and a step that clips and writes the casts. Both rows on the same tensors; first
both step once from the same weights, and "apart" is the largest difference of any weight.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _clocks import now
from _shapes import PATTERN, eight_billion
from torch import Tensor

from minipuzzle.arch import Architecture
from minipuzzle.training.adamw import AdamW
from minipuzzle.training.update import total_norm

SHARED: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
CLIP = 1.0


class Tensors:
    """Weights, and what a backward pass leaves of them."""

    def __init__(self, model: Architecture, divide: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.weights, self.matrices, self.gradients = [], [], []
        buffers = model.buffers
        for tensor in model.tensors():
            if tensor.name in buffers:
                continue
            rows, *rest = tensor.shape
            shape = (-(-rows // divide), *rest)
            weight = torch.nn.Parameter(torch.randn(shape, device=device).mul_(0.02))
            matrix = tensor.name.startswith("blocks.") and tensor.name in model.matrices
            self.weights.append(weight)
            self.matrices.append(matrix)
            dtype = torch.bfloat16 if matrix else torch.float32
            self.gradients.append(torch.randn(shape, device=device, dtype=dtype).mul_(1e-3))
        pairs = zip(self.weights, self.matrices, strict=True)
        self.copies = {w: w.detach().bfloat16() for w, matrix in pairs if matrix}

    def bytes(self, each: int, rest: int) -> int:
        """At so many a number of the blocks' matrices, and of the rest."""
        pairs = zip(self.weights, self.matrices, strict=True)
        return sum(w.numel() * (each if matrix else rest) for w, matrix in pairs)


def torchs(held: Tensors) -> Callable[[], None]:
    """PyTorch's way."""
    fused = held.weights[0].is_cuda
    optimizer = torch.optim.AdamW(held.weights, **SHARED, fused=fused, foreach=False)
    halves = [g for g in held.gradients if g.dtype == torch.bfloat16]
    sources, copies = [w.detach() for w in held.copies], list(held.copies.values())

    def step() -> None:
        wide = [torch.empty_like(g, dtype=torch.float32) for g in halves]
        torch._foreach_copy_(wide, halves)
        left = iter(wide)
        for weight, gradient in zip(held.weights, held.gradients, strict=True):
            weight.grad = next(left) if gradient.dtype == torch.bfloat16 else gradient
        torch.nn.utils.clip_grad_norm_(held.weights, CLIP)
        optimizer.step()
        torch._foreach_copy_(copies, sources)
        for weight in held.weights:
            weight.grad = None

    return step


def ours(held: Tensors) -> Callable[[], None]:
    """Ours."""
    optimizer = AdamW([{"params": held.weights}], **SHARED)
    optimizer.copies = held.copies
    for weight in held.copies:
        weight.grad_dtype = torch.bfloat16

    def step() -> None:
        for weight, gradient in zip(held.weights, held.gradients, strict=True):
            weight.grad = gradient
        norm, step = total_norm(held.gradients), optimizer.ready()
        step(min(1.0, CLIP / (norm.item() + 1e-6)))
        for weight in held.weights:
            weight.grad = None

    return step


def measured(held: Tensors, make: Callable[[Tensors], Callable[[], None]], rounds: int) -> float:
    """Median milliseconds of a step."""
    step, device = make(held), held.weights[0].device
    times = []
    for _ in range(rounds + 2):
        began = now(device)
        step()
        times.append(1e3 * (now(device) - began))
    return statistics.median(times[2:])


def first_steps(model: Architecture, divide: int, device: torch.device) -> float:
    """The largest difference of any weight or copy after a step of each from the same start."""
    ends: list[list[Tensor]] = []
    for make in (torchs, ours):
        held = Tensors(model, divide, device)
        make(held)()
        ends.append([*(w.detach() for w in held.weights), *held.copies.values()])
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(*ends, strict=True))


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=len(PATTERN))
    parser.add_argument("--divide", type=int, default=1, help="rows of each tensor, by this")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, model = torch.device(options.device), eight_billion(options.layers)[1]
    apart = first_steps(model, 16 * options.divide, device)
    held = Tensors(model, options.divide, device)
    # read and written: casts of gradient and weight 6 each, norm 4, clipping 8, AdamW 28; ours: a
    # norm 2 (of FP32 4), a step 28, with a gradient and a copy in BF16 or without a copy
    moved = {"torch": held.bytes(52, 40), "ours": held.bytes(30, 32)}
    made = {"torch": torchs, "ours": ours}
    rows = {}
    for name, make in made.items():
        ms = measured(held, make, options.rounds)
        rows[name] = {"ms": ms, "GB": moved[name] / 1e9, "GB/s": moved[name] / ms / 1e6}
        print(f"{name:5} {ms:9.2f} ms, {moved[name] / 1e9:7.2f} GB, {rows[name]['GB/s']:8.1f} GB/s")
    ratio = rows["torch"]["ms"] / rows["ours"]["ms"]
    count = sum(w.numel() for w in held.weights)
    print(f"{ratio:.2f} times as fast, {count:,} parameters; apart after a step {apart:.1e}")
    if options.out:
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        found = {"rows": rows, "ratio": ratio, "apart": apart, "parameters": count}
        found |= {"device": name, "torch": torch.__version__}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
