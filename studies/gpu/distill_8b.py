r"""Distillation of a 2 B student from the Nemotron-H-8B's shape (random weights) through the
command line, watched.

    bash studies/gpu/distill_8b.sh cut; bash studies/gpu/distill_8b.sh distill; bash \
        studies/gpu/distill_8b.sh search
    # a rehearsal
    python studies/gpu/distill_8b.py make cut distill search --tiny --device cpu --work /tmp/d8 \
        --out /tmp/d8

``make`` writes the checkpoint and the texts, ``cut`` runs minipuzzle score, search and prune,
``distill`` minipuzzle distill (benchmarks/watch.py times its steps and saves), ``search`` the loss
of the 8B as the search measures it, beside FP32's. Results are JSON files in --out, written as they
come. docs/results/saves.md.
"""

from __future__ import annotations

import argparse
import bz2
import json
import math
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch

from minipuzzle import embedded

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EXAMPLE = ROOT / "docs/examples/nemotron-h-8b/config.json"
TEACHER = embedded.teacher_path()
TINY = {
    "hidden_size": 64,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "mamba_n_groups": 2,
    "vocab_size": 8192,
}
TEXT_BYTES = 120_000
"""Of validation text: 64 blocks of 512 tokens or so."""


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=("make", "cut", "distill", "search", "watched"))
    parser.add_argument(
        "--work", type=Path, required=True, help="for the run directory: 85 GB, or 60 at least"
    )
    parser.add_argument("--checkpoint", type=Path, help="for the 8B: 17 GB (default: WORK/parent)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=380.0, help="of distillation steps")
    parser.add_argument(
        "--tokens-per-second",
        type=float,
        default=17_000.0,
        help="expected, to choose the tokens by",
    )
    parser.add_argument("--save-every", type=float, default=100.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.checkpoint = options.checkpoint or options.work / "parent"
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        began = time.monotonic()
        globals()[part](options)
        print(f"== {part}: {time.monotonic() - began:.1f} s", flush=True)


def make(options: argparse.Namespace) -> None:
    """A random checkpoint of the 8B's shape in BF16, with the embedded tokenizer, and texts that it
    has words for.
    """
    from minipuzzle import families
    from minipuzzle.checkpoint import write_checkpoint

    config = {
        **json.loads(EXAMPLE.read_text()),
        **(TINY if options.tiny else {}),
        "torch_dtype": "bfloat16",
    }
    family = families.find(config["model_type"])
    architecture = family.architecture(config)
    shapes = {entry.name: entry.shape for entry in architecture.tensors()}
    torch.manual_seed(0)

    def weight(name: str) -> torch.Tensor:
        value = torch.empty(shapes[name], device=options.device)
        if name.endswith("A_log"):
            value.uniform_(1.0, 16.0).log_()
        elif name.endswith("dt_bias"):
            value.uniform_(math.log(1e-3), math.log(0.1)).exp_()
            value.add_(torch.log(-torch.expm1(-value)))
        elif name.endswith("bias"):
            value.zero_()
        elif value.ndim == 1:
            value.fill_(1.0)  # norms and D
        else:
            value.normal_(0.0, 0.02)
        return value.bfloat16().cpu()

    write_checkpoint(options.checkpoint, architecture, weight, source=None, config=config)
    for file in TEACHER.glob("tokenizer*"):
        shutil.copy(file, options.checkpoint)
    for which in ("train", "validation"):
        text = bz2.decompress(
            (ROOT / f"minipuzzle/embedded/{which}/speeches.txt.bz2").read_bytes()
        ).decode()
        (options.work / f"{which}.txt").write_text(text if which == "train" else text[:TEXT_BYTES])
    size = sum(file.stat().st_size for file in options.checkpoint.iterdir())
    print(f"{architecture.parameters:,} parameters, {size:,} bytes in {options.checkpoint}")


def cut(options: argparse.Namespace) -> None:
    """Score a little, take the one architecture that fits a quarter, cut it."""
    text, device = str(options.work / "validation.txt"), ("--device", options.device)
    few = ("--samples", 4, "--block-samples", 2, "--batch", 2, "--no-curves", "--data", text)
    budget = ("--multiple", 8) if options.tiny else ()
    command(options, "score", options.checkpoint, *few, *device)
    command(
        options,
        "search",
        "--budget",
        "70%" if options.tiny else "25%",
        *budget,
        "--candidates",
        2,
        "--top",
        1,
        "--validation-blocks",
        8,
        "--data",
        text,
        *device,
    )
    command(options, "prune", *device)


def distill(options: argparse.Namespace) -> None:
    """The command of a user, in a process that is watched."""
    length, batch = (64, 4) if options.tiny else (2048, 4)
    steps = max(30, round(options.seconds * options.tokens_per_second / (length * batch)))
    rate = "1e-4"  # one rate: several would be tried in short runs first
    command(
        options,
        "distill",
        "--data",
        options.work / "train.txt",
        "--validation",
        options.work / "validation.txt",
        "--tokens",
        steps * length * batch,
        "--length",
        length,
        "--batch",
        batch,
        "--learning-rate",
        rate,
        "--save-every",
        options.save_every,
        "--device",
        options.device,
        watched=True,
    )
    found = json.loads((options.out / "distill_8b.json").read_text())
    gib = 2**30
    print(
        f"{found['steps']} steps of {found['step_s'] * 1e3:.0f} ms; of the time after"
        f" {found['warm_up_s']:.0f} s of warm-up {found['share_of_whole']:.1%} in steps"
        f" ({found['share_until_last_step']:.1%} until the last step); {len(found['saves'])} saves,"
        f" {found['memory_of_a_save'] / gib:.3f} GiB of CPU memory for one ="
        f" {found['memory_of_a_save'] / found['shard_bytes']:.2f} of a shard (pinned:"
        f" {found['pinned_peak'] / gib:.3f} GiB); GPU {found['gpu_peak'] / gib:.1f} GiB"
    )
    for save in found["saves"]:
        beside = save.get("written_s", 0.0)
        print(
            f"  after step {save['step']}: steps waited {save['stall_s']:.2f} s, then {beside:.1f}"
            " s beside them"
        )


def search(options: argparse.Namespace) -> None:
    """Tokens a second of ``metrics.measure`` as the search calls it, and with FP32 products, as it
    did before.
    """
    import minipuzzle.metrics as evaluate
    from minipuzzle.checkpoint import Checkpoint
    from minipuzzle.data import Tokenizer, load_blocks
    from minipuzzle.kernels import choose
    from minipuzzle.model import load_frozen, load_model

    checkpoint, device = Checkpoint.open(options.checkpoint), torch.device(options.device)
    kernels = choose(device)
    text = load_blocks(
        options.work / "validation.txt", Tokenizer.load(options.checkpoint), block_length=512
    )
    loads = {
        "as it is": lambda: load_frozen(checkpoint, device=device, kernels=kernels),
        "FP32": (
            lambda: load_model(
                checkpoint, device=device, dtype=torch.float32, kernels=kernels
            ).eval()
        ),
    }
    without = mock.patch("torch.autocast", new=mock.Mock(return_value=nullcontext()))
    rows: dict[str, dict[str, float]] = {}
    for name, load in loads.items():
        torch.cuda.reset_peak_memory_stats() if device.type == "cuda" else None
        with without if name == "FP32" else nullcontext():
            model = load()
            evaluate.measure(model, text)  # kernels are chosen and tuned
            began = time.monotonic()
            metrics = evaluate.measure(model, text)
            seconds = time.monotonic() - began
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        rows[name] = {
            "tokens_per_second": text.tokens.size / seconds,
            "loss": metrics.loss,
            "gpu_peak": peak,
        }
        print(
            f"  {name}: {rows[name]['tokens_per_second']:,.0f} tokens/s, loss {metrics.loss:.5f}, "
            f"{peak / 2**30:.1f} GiB",
            flush=True,
        )
        del model
    ratio = rows["as it is"]["tokens_per_second"] / rows["FP32"]["tokens_per_second"]
    print(f"  {ratio:.1f} times FP32's")
    (options.out / "search_8b.json").write_text(json.dumps({**rows, "ratio": ratio}, indent=1))


def command(options: argparse.Namespace, *words: object, watched: bool = False) -> None:
    """Run ``minipuzzle`` with the run directory; its seconds go into commands.json."""
    line = [*map(str, words), "--run", str(options.work / "run")]
    start = [sys.executable, "-m", "minipuzzle"]
    if watched:
        start = [
            sys.executable,
            str(HERE / "distill_8b.py"),
            "watched",
            "--work",
            str(options.work),
            "--out",
            str(options.out),
        ]
        (options.work / "watched.json").write_text(json.dumps(line))
        line = []
    began = time.monotonic()
    subprocess.run([*start, *line], check=True, cwd=options.work)
    seconds = time.monotonic() - began
    file = options.out / "commands_8b.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, str(words[0]): round(seconds, 1)}, indent=1))
    print(f"  minipuzzle {words[0]}: {seconds:.1f} s", flush=True)


def watched(options: argparse.Namespace) -> None:
    """The command line in ``WORK/watched.json``, in this process."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from watch import Watch

    from minipuzzle.cli import main as minipuzzle

    Watch(options.out / "distill_8b.json")
    sys.argv = ["minipuzzle", *json.loads((options.work / "watched.json").read_text())]
    minipuzzle()


if __name__ == "__main__":
    main()
