"""The papers' speed claims on one GPU, a section each. docs/results/headline.md.

    # 8B hybrid beside the shapes of Llama-3.1-8B and Qwen2.5-7B: 9 minutes
    python studies/headline_speed.py small
    python studies/headline_speed.py large         # 56B beside 47B, whole, on an H200: 7 minutes
    # the same on an H100, blocks held in FP8: 7 minutes
    python studies/headline_speed.py large --weights fp8
    # decoding of the 8B against transformers' generate: 3 minutes
    python studies/headline_speed.py transformers
    # predicted against measured peak of the three 8B shapes: 4 minutes
    python studies/headline_speed.py memory

Baselines: the 56B, the Transformers in our own runtime, transformers' generate with mamba-ssm's
kernels. Weights are random: speed does not depend on them. What is done is in --out and not run
again; each phase of ``small`` and ``large`` stops after --seconds and is taken in proportion.
Against the card's ceilings: studies/headline_account.py. Tables: studies/headline_table.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minipuzzle.artifacts import read_json, write_json
from minipuzzle.checkpoint.config import read_config
from minipuzzle.errors import UserError
from minipuzzle.generation.bench import measure
from minipuzzle.generation.step import TOKENS_AT_ONCE
from minipuzzle.model import HybridLM
from minipuzzle.runs.bench import run_bench
from minipuzzle.settings import Generation

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
OUT = Path(__file__).parent.parent / "docs" / "results" / "headline_speed.json"
SMALL, LARGE = ("nemotron-h-8b", "llama-3.1-8b", "qwen2.5-7b"), ("nemotron-h-56b", "nemotron-h-47b")
OUTPUT = 1024
MEMORY_CASES = (
    (1, 8192),
    (16, 8192),
    (64, 8192),
    (1, 65536),
    (6, 65536),
    (1, 131072),
    (None, 131072),
)
SHOWN_KERNELS = 12


def main() -> None:
    """Run one section, print its rows, write JSON after each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", choices=("small", "large", "transformers", "memory"))
    parser.add_argument(
        "--configs",
        type=Path,
        nargs="+",
        help="others than the published shapes, to try the script",
    )
    parser.add_argument("--prompts", type=int, nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", choices=("auto", "fp8"), default="auto")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    section = {
        "small": compared,
        "large": compared,
        "transformers": against_transformers,
        "memory": memory,
    }
    names = LARGE if options.section == "large" else SMALL
    options.configs = options.configs or [EXAMPLES / name for name in names]
    section[options.section](options)


def once(options: argparse.Namespace, key: str, run: Callable[[], Any]) -> Any:
    """The result under ``key`` of the section: the one in the file, or that of ``run``, written at
    once.
    """
    stored = read_json(options.out) if options.out.exists() else {}
    rows = stored.setdefault(options.section, {})
    if "error" in rows.get(key, {"error": ""}):
        started = time.time()
        try:
            rows[key] = run()
        except (UserError, torch.cuda.OutOfMemoryError) as error:
            rows[key] = {"error": str(error)}
        rows[key] |= {
            "seconds": round(time.time() - started),
            "card": card(torch.device(options.device)),
        }
        write_json(options.out, stored)
        print(f"{options.section}: {key}: {rows[key]['seconds']} s", flush=True)
    return rows[key]


def card(device: torch.device) -> str:
    """The GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def benched(*paths_and_work: Any, **options: Any) -> dict[str, Any]:
    """``run_bench`` as JSON."""
    return run_bench(*paths_and_work, **options).json()


def compared(options: argparse.Namespace) -> None:
    """Models in turn, one prompt and the largest batch, at each prompt length."""
    for prompt in options.prompts or (65536, 8192)[: 1 if options.section == "large" else 2]:
        for batch in (1, None):
            work = None if batch is None else Generation(batch=batch, prompt=prompt, output=OUTPUT)
            run = partial(
                benched,
                options.configs,
                work,
                prompt=prompt,
                output=OUTPUT,
                device=options.device,
                dtype="auto",
                state="auto",
                seconds=options.seconds,
                fp8_weights=options.weights == "fp8",
            )
            held = "" if options.weights == "auto" else f", weights {options.weights}"
            result = once(
                options, f"{'largest batch' if batch is None else 'batch 1'}, {prompt}{held}", run
            )
            for row in result.get("rows", []):
                print(
                    f"  {row['name']:<16} batch {row['batch']:>3}  first token"
                    f" {row['first_token_s']:8.2f} s  prefill {row['prefill_tokens_per_s']:9,.0f} "
                    f" decode {row['decode_tokens_per_s']:9,.1f}  output"
                    f" {row['tokens_per_s']:8,.1f} tokens/s"
                )


def memory(options: argparse.Namespace) -> None:
    """Predicted against allocated; caches are whole, a row and a few tokens are run."""
    for batch, prompt in (
        MEMORY_CASES if options.prompts is None else [(2, p) for p in options.prompts]
    ):
        for config in options.configs:
            work = None if batch is None else Generation(batch=batch, prompt=prompt, output=OUTPUT)
            run = partial(
                benched,
                [config],
                work,
                prompt=prompt,
                output=OUTPUT,
                device=options.device,
                dtype="auto",
                state="auto",
                seconds=0,
            )
            result = once(
                options,
                f"{config.name}, batch {batch or 'auto'}, {prompt}",
                lambda run=run: slim(run()),
            )
            print(
                f"  {result.get('predicted_bytes')} predicted, {result.get('peak_bytes')}"
                f" allocated, {result.get('reserved_bytes')} reserved"
            )


def slim(result: dict[str, Any]) -> dict[str, Any]:
    """What the memory table needs."""
    row = result["rows"][0]
    return {k: row[k] for k in ("name", "batch", "predicted_bytes", "peak_bytes", "reserved_bytes")}


def against_transformers(options: argparse.Namespace) -> None:
    """Milliseconds of a decoding step, ours and of transformers' generate on the same config."""
    device, config = torch.device(options.device), options.configs[0]
    for batch in (1, 8):
        for prompt in options.prompts or (8192,):
            work = Generation(batch=batch, prompt=prompt, output=129)
            for run in (ours, theirs):
                row = once(
                    options,
                    f"{run.__name__}, batch {batch}, {prompt}",
                    partial(run, config, work, device),
                )
                print(
                    f"  {run.__name__:<7} batch {batch}: prefill {row['prefill_ms']:.1f} ms, step"
                    f" {row['step_ms']:.2f} ms"
                )


def ours(config: Path, work: Generation, device: torch.device) -> dict[str, Any]:
    """Our runtime."""
    model = HybridLM(read_config(config)[1], device=device, dtype=dtype_of(device)).eval()
    speed = measure(model, work, state_dtype=torch.float32, tokens_at_once=TOKENS_AT_ONCE)
    return {
        "prefill_ms": 1e3 * speed.first_token_s,
        "step_ms": 1e3 * speed.decode_s / (work.output - 1),
    }


@torch.no_grad()
def theirs(config: Path, work: Generation, device: torch.device) -> dict[str, Any]:
    """transformers' generate, greedy, its cache; what one token takes is taken off what all
    take.
    """
    import transformers

    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(config), dtype=dtype_of(device)
        ).eval()
    prompt = torch.randint(3, model.config.vocab_size, (work.batch, work.prompt), device=device)
    mask = torch.ones_like(prompt)
    seconds = {}
    for count in (2, 1, work.output):  # the first call tunes kernels
        now(device)
        started = time.perf_counter()
        model.generate(
            prompt,
            attention_mask=mask,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        now(device)
        seconds[count] = time.perf_counter() - started
    kernels = kernel_times(
        lambda: model.generate(
            prompt[:, :256],
            attention_mask=mask[:, :256],
            max_new_tokens=2,
            do_sample=False,
            pad_token_id=0,
        ),
        device,
    )
    return {
        "prefill_ms": 1e3 * seconds[1],
        "step_ms": 1e3 * (seconds[work.output] - seconds[1]) / (work.output - 1),
        "transformers": transformers.__version__,
        "kernels": [name for name, _, _ in kernels],
    }


def kernel_times(step: Callable[[], Any], device: torch.device) -> list[tuple[str, int, float]]:
    """(name, calls, ms) of the kernels of one ``step``, the longest first; of PyTorch's operations
    on a CPU.
    """
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    step()
    now(device)
    with profile(
        activities=[ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU], acc_events=True
    ) as recorded:
        step()
        now(device)
    rows = [
        (e.key[:90], e.count, (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e3)
        for e in recorded.key_averages()
    ]
    return sorted(rows, key=lambda row: -row[2])[:SHOWN_KERNELS]


def dtype_of(device: torch.device) -> torch.dtype:
    """BF16 on a GPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def now(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
