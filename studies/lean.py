"""Whether the lean optimisers end level with plain AdamW: the same models trained from nothing on
the same text, several seeds, losses of held-out text and the interval of their differences.

    # a GPU: 100 M parameters over 100 M tokens
    python studies/lean.py run FOLDER --size 100m --tokens 100M --device cuda --seeds 3
    # a rehearsal on a CPU: the embedded teacher's shape
    OMP_NUM_THREADS=1 python studies/lean.py run FOLDER --tokens 60k
    python studies/lean.py table FOLDER

The text is the embedded one, read in epochs, or --train and --validation. Given again it goes on;
one JSON line a run in FOLDER/lean.json. docs/decisions/lean-optimiser.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from minipuzzle import embedded, families
from minipuzzle.arch import Architecture
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint.config import read_config
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.memory.optimizers import Held, held_by_block
from minipuzzle.metrics import measure
from minipuzzle.model import init_model
from minipuzzle.settings import Training
from minipuzzle.settings.counts import parse_count
from minipuzzle.training import next_token, train

OPTIMIZERS = ("adamw", "adamw-8bit", "adamw-8bit-bf16")
SHAPES = {"embedded": {}, "100m": {"hidden_size": 1024, "intermediate_size": 3584}}
MORE = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64}
MAMBA = {"mamba_num_heads": 32, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 4}
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""Of 95 %, by the number of seeds."""


def shape(size: str) -> Architecture:
    """The embedded teacher's, or the same pattern at 100 M parameters."""
    if size == "embedded":
        return read_config(embedded.teacher_path())[1]
    config = json.loads((embedded.teacher_path() / "config.json").read_text())
    config |= {**SHAPES[size], **MORE, **MAMBA, "mamba_n_groups": 4}
    return families.of(config).architecture(config)


def run(options: argparse.Namespace) -> None:
    """Train what lean.json lacks."""
    folder, device = options.folder, torch.device(options.device)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(embedded.teacher_path())
    texts = {
        which: load_blocks(
            getattr(options, which) or embedded.text_path(which),
            tokenizer,
            block_length=options.length,
            cache=folder / "tokens",
        )
        for which in ("train", "validation")
    }
    held_out = texts["validation"].take(options.blocks)
    made = shape(options.size)
    found = rows(folder)
    for seed in range(options.seeds):
        for optimizer in OPTIMIZERS:
            about = {"size": options.size, "tokens": options.tokens, "seed": seed}
            about |= {"optimizer": optimizer, "device": device.type}
            if any(about.items() <= row.items() for row in found):
                continue
            settings = Training(
                tokens=options.tokens,
                batch=options.batch,
                learning_rate=options.rate,
                seed=seed,
                optimizer=optimizer,
                save_every=600.0,
            )
            model, began = init_model(made, seed, device=device), time.monotonic()
            place = folder / f"{options.size}-{options.tokens}-{optimizer}-{seed}"
            loss = train(model, next_token, texts["train"], settings, place, identity="lean")
            held = sum(held_by_block(made, optimizer), Held())
            row = {
                **about,
                "parameters": made.parameters,
                "bytes": (held.weights + held.gradients + held.moments) / made.parameters,
                "train": loss,
                "validation": measure(model, held_out).loss,
                "seconds": time.monotonic() - began,
                "machine": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
                "torch": torch.__version__,
            }
            found.append(row)
            write_json(folder / "lean.json", found)
            print(json.dumps(row), flush=True)


def rows(folder: Path) -> list[dict]:
    """What was measured so far."""
    file = folder / "lean.json"
    return json.loads(file.read_text()) if file.exists() else []


def interval(differences: list[float]) -> tuple[float, float]:
    """(mean, half of the 95 % interval) of paired differences, by Student's t."""
    mean, count = statistics.fmean(differences), len(differences)
    return mean, STUDENT_T[count] * statistics.stdev(differences) / count**0.5


def table(options: argparse.Namespace) -> None:
    """Markdown: a row for each optimiser."""
    found = rows(options.folder)
    by = {(row["optimizer"], row["seed"]): row for row in found}
    seeds = sorted({row["seed"] for row in found})
    print("| optimizer | bytes a parameter | validation loss by seed | difference | 95 % |")
    print("|---|--:|---|--:|--:|")
    for optimizer in OPTIMIZERS:
        mine = [by[optimizer, seed] for seed in seeds if (optimizer, seed) in by]
        if not mine:
            continue
        losses = ", ".join(f"{row['validation']:.4f}" for row in mine)
        pairs = [row["validation"] - by["adamw", row["seed"]]["validation"] for row in mine]
        ends = ("", "")
        if optimizer != "adamw" and len(pairs) > 1:
            mean, half = interval(pairs)
            ends = (f"{mean:+.4f}", f"±{half:.4f}")
        print(f"| `{optimizer}` | {mine[0]['bytes']:.2f} | {losses} | {ends[0]} | {ends[1]} |")


def main() -> None:
    """Run the part that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("run", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SHAPES, default="embedded")
    parser.add_argument("--tokens", type=parse_count, default=60_000)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=24, help="of validation text")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--validation", type=Path)
    options = parser.parse_args()
    {"run": run, "table": table}[options.part](options)


if __name__ == "__main__":
    main()
