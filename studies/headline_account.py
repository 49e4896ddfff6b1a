"""One decoding step and one prefill of a model against what the card can do, by kind of block and
by kernel.

    # the 8B at 65,536 tokens, batch 1 and 32: 3 minutes on an H100
    python studies/headline_account.py

A block's bound is the larger of its bytes at the measured speed of a copy and its operations at
that of a large BF16 product; bytes are each weight and cached value once, the stream twice
(``cost.roofline``). docs/results/headline.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from headline_speed import EXAMPLES, OUT, SMALL, dtype_of, kernel_times, now, once
from torch.nn.attention import SDPBackend, sdpa_kernel

from minipuzzle.checkpoint.config import read_config
from minipuzzle.cost.roofline import Roofline
from minipuzzle.generation.step import TOKENS_AT_ONCE, Decoder, prefill
from minipuzzle.kernels import choose
from minipuzzle.model import HybridLM
from minipuzzle.settings import Generation
from minipuzzle.timing import Machine, time_in_turns


def main() -> None:
    """Measure, print, write JSON after each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", type=Path, nargs="+", default=[EXAMPLES / SMALL[0]])
    parser.add_argument("--prompts", type=int, nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.section = "account"
    account(options)


def account(options: argparse.Namespace) -> None:
    """Bytes and operations of blocks against measured ceilings, and the kernels that take
    longest.
    """
    device, architecture = torch.device(options.device), read_config(options.configs[0])[1]
    ceilings = once(options, "ceilings", partial(measured_ceilings, device))
    print(
        f"  copy {ceilings['bytes_per_s'] / 1e12:.2f} TB/s, product"
        f" {ceilings['flops_per_s'] / 1e12:.0f} TFLOP/s"
    )
    prompt = (options.prompts or [65536])[0]
    sizes = {
        "prefill": (1, min(prompt, TOKENS_AT_ONCE)),
        "decode": (1, prompt),
        "decode, batch 32": (32, prompt),
    }
    works = {
        name: Generation(batch=batch, prompt=tokens, output=1)
        for name, (batch, tokens) in sizes.items()
    }
    for name, work in works.items():
        phase = name.split(",")[0]
        result = once(
            options, name, partial(step_account, architecture, phase, work, ceilings, device)
        )
        if "error" in result:
            print(f"  {name}: {result['error']}")
            continue
        print(
            f"  {name} ({result['work']}): {result['ms']:.2f} ms; largest gap:"
            f" {result['largest_gap']}"
        )
        for part in result["parts"]:
            ms, bound = part["ms"], part["bound_ms"]
            print(
                f"    {part['part']:<10} {part['count']:>3} x {ms / part['count']:8.3f} ms  bound"
                f" {bound:8.3f} ms in all ({part['bound_by']}), {ms - bound:8.3f} ms above it"
            )


def step_account(
    architecture: Any,
    phase: Any,
    work: Generation,
    ceilings: dict[str, float],
    device: torch.device,
) -> Any:
    """Each kind of block: measured, its bytes and operations, the bound they set; then the kernels
    of one whole step.
    """
    machine = Machine(device=device, dtype=dtype_of(device), kernels=choose(device))
    first, *blocks, last = time_in_turns([architecture], [work], machine, marked=1, phases=[phase])[
        0
    ][work, phase]
    around = first + last
    line, parts = Roofline(device="h100"), []
    for kind in ("mamba", "attention", "mlp", None):
        where = architecture.indices(kind) if kind else [None]
        if not where:
            continue
        ms = sum(blocks[i] for i in where) if kind else around
        block = architecture.blocks[where[0]] if kind else None
        flops, moved = (len(where) * v for v in line.needs(block, phase, work, architecture))
        if kind == "mamba":  # our states are FP32, the estimate's BF16: read and written
            moved += len(where) * 2 * 2 * work.batch * block.inner * block.state
        bounds = {
            "matrix products": 1e3 * flops / ceilings["flops_per_s"],
            "bytes": 1e3 * moved / ceilings["bytes_per_s"],
        }
        bound_by = max(bounds, key=bounds.__getitem__)
        parts.append(
            {
                "part": kind or "head, ends",
                "count": len(where),
                "ms": ms,
                "flops": flops,
                "bytes": moved,
                "bound_ms": bounds[bound_by],
                "bound_by": bound_by,
            }
        )
    gap = max(parts, key=lambda p: p["ms"] - p["bound_ms"])
    return {
        "work": str(work),
        "parts": parts,
        "ms": sum(p["ms"] for p in parts),
        "largest_gap": gap["part"],
        "bound_ms": sum(p["bound_ms"] for p in parts),
        "kernels": step_kernels(machine.model(architecture), phase, work, device),
    }


@torch.no_grad()
def step_kernels(
    model: HybridLM, phase: str, work: Generation, device: torch.device
) -> list[tuple[str, int, float]]:
    """The kernels of one step by their time: (name, calls, ms)."""
    cache = model.new_cache(work.batch, work.prompt + 1)
    if phase == "prefill":
        prompts = torch.randint(
            0, model.architecture.vocab_size, (work.batch, work.prompt), device=device
        )
        return kernel_times(lambda: prefill(model, cache, prompts, TOKENS_AT_ONCE), device)
    decoder = Decoder(model, cache, work.batch)
    tokens = torch.zeros(work.batch, dtype=torch.int64, device=device)

    def step() -> None:
        decoder.start([work.prompt] * work.batch)
        decoder.step(tokens)

    return kernel_times(step, device)


def measured_ceilings(device: torch.device) -> dict[str, float]:
    """What the card does: bytes a second of a large copy (read and written), operations of a large
    BF16 product.
    """
    cuda = device.type == "cuda"
    values, size = (1 << 30, 8192) if cuda else (1 << 22, 512)
    a = torch.empty(values, dtype=torch.bfloat16, device=device)
    b = torch.empty_like(a)
    x, y = (torch.randn(size, size, dtype=dtype_of(device), device=device) for _ in range(2))
    copy, product = (fastest(run, device) for run in (lambda: b.copy_(a), lambda: x @ y))
    return {
        "bytes_per_s": 4 * values / copy,
        "flops_per_s": 2 * size**3 / product,
        **attention_rates(device),
    }


def attention_rates(device: torch.device) -> dict[str, float | None]:
    """Operations a second of causal attention (32 query, 8 KV heads of 128) by each of PyTorch's
    kernels, None where it does not run. Prompts beyond the first piece use "flash", which bears
    most on the Transformers.
    """
    heads, length = ((32, 8), 16384) if device.type == "cuda" else ((4, 2), 256)
    q, k, v = (
        torch.randn(1, n, length, 128, dtype=dtype_of(device), device=device)
        for n in (heads[0], heads[1], heads[1])
    )
    rates: dict[str, float | None] = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        name = f"{backend.name.lower()}_flops_per_s"
        try:
            with sdpa_kernel(backend):
                seconds = fastest(
                    lambda: F.scaled_dot_product_attention(
                        q, k, v, is_causal=True, enable_gqa=True
                    ),
                    device,
                )
            rates[name] = 2 * heads[0] * 128 * length**2 / seconds
        except RuntimeError:
            rates[name] = None
    return rates


def fastest(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds, the least of 20."""
    times = []
    for _ in range(23):
        now(device)
        started = time.perf_counter()
        run()
        now(device)
        times.append(time.perf_counter() - started)
    return min(times[3:])


if __name__ == "__main__":
    main()
