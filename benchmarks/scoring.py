r"""Streamed scoring against the naive loop, and at 56B sizes: memory, time and FLOP/s. Results:
docs/results/scoring.md.

    # embedded teacher: block-forwards and seconds of ours and the loop
    python benchmarks/scoring.py
    # random BF16 weights
    python benchmarks/scoring.py --config docs/examples/nemotron-h-56b --layers 4 --no-curves
    python benchmarks/scoring.py --config docs/examples/nemotron-h-56b --layers 40 \
        --device cuda --folder /disk --out x.json

With --config the first run of --layers blocks that holds every kind is written with random weights
to a folder that is deleted afterwards (embedding and head of the 56B take 4 GiB of it, a block
about 0.9, and the state of a run as much as its activations). A child process writes, so that the
memory measured is that of scoring alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring_large import large

from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.importance import score, work
from minipuzzle.messages import print_messages
from minipuzzle.model import load_model
from minipuzzle.settings import ScoreSettings


def main() -> None:
    """Run the comparison, or with --config the large slice; print, and write JSON to --out."""
    print_messages()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="folder with the config.json of a large model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--block-samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--no-curves", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder", type=Path, help="where the random checkpoint and the run's state go for a while"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    result = compare(device) if options.config is None else large(options, device)
    result |= {
        "device": device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=1, default=str))
    if options.out is not None:
        write_json(options.out, result)


def compare(device: torch.device) -> dict[str, Any]:
    """Ours and the naive loop (take each block out, run the whole model) on the same 16 x 256
    tokens, alternately.
    """
    parent = Checkpoint.open(embedded.teacher_path())
    blocks = load_blocks(
        embedded.text_path("calibration"), Tokenizer.load(parent.path), block_length=256
    )
    settings = ScoreSettings(samples=16, block_samples=16, curves=False)
    seconds: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, list[float]] = defaultdict(list)
    counts = {"naive": 0, "ours": 0}
    errors: dict[str, np.ndarray] = {}
    for _ in range(5):
        for name in ("ours", "naive"):
            started, used = time.perf_counter(), time.process_time()
            if name == "naive":
                errors[name], counts[name] = naive(parent, blocks.take(16, seed=0).tokens, device)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    errors[name] = score(
                        parent, blocks, settings, device=device, partial=Path(folder)
                    ).blocks
            seconds[name].append(time.perf_counter() - started)
            busy[name].append(time.process_time() - used)
    counts["ours"] = work(settings, parent.architecture, len(blocks)) // 16
    best, least = (
        {name: min(values) for name, values in times.items()} for times in (seconds, busy)
    )
    return {
        "block_forwards_a_sample": counts,
        "count_ratio": counts["naive"] / counts["ours"],
        "seconds": dict(seconds),
        "best_seconds": best,
        "time_ratio": best["naive"] / best["ours"],
        "processor_seconds": dict(busy),
        "processor_time_ratio": least["naive"] / least["ours"],
        "largest_relative_difference": float(np.max(np.abs(errors["ours"] / errors["naive"] - 1))),
    }


@torch.no_grad()
def naive(parent: Checkpoint, tokens: np.ndarray, device: torch.device) -> tuple[np.ndarray, int]:
    """(removal errors, block-forwards a sample) of the loop that runs the whole model once for each
    block.
    """
    model = load_model(parent, device=device).eval()
    count, forwards = len(model.blocks), 0
    totals = np.zeros(count)
    batches = torch.from_numpy(tokens.astype(np.int64)).to(device).split(8)
    whole = [model.hidden_states(batch) for batch in batches]
    forwards += count
    for removed in range(count):
        for batch, full in zip(batches, whole, strict=True):
            state = model.run_blocks(
                model.run_blocks(model.embed(batch), None, 0, removed), None, removed + 1, count
            )
            totals[removed] += (model.final_norm(state) - full).square().mean(
                dtype=torch.float64
            ).item() * len(batch)
        forwards += count - 1
    return totals / len(tokens), forwards


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU"
    )


if __name__ == "__main__":
    main()
