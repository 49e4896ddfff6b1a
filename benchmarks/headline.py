"""The papers' experiment on one GPU: a teacher, 83 % and 60 % of it, the same shapes from scratch. docs/results/headline.md.

    python -m minipuzzle.embedded.corpus --shared ../shared/data --out .carry/corpus       # once, here: the text that travels
    python benchmarks/headline.py --text .carry/corpus                                       # the GPU: 25 minutes of an H100
    python benchmarks/headline.py --tiny --work /tmp/headline --out /tmp/headline.json      # every stage on a CPU: 5 minutes

Each stage is a command of minipuzzle in a process of its own, with a budget of seconds; a stage whose product is in --work is
not run again, and --minutes stops in good order (SIGTERM saves a training state): give the same command again. Kept in --out:
each stage's command and seconds, losses and accuracies, curves, what the searches chose. Tokens of a student are those of its
short and its long run together, 2.9 % of the teacher's at 83 %, 9.5 % at 60 %. Validation documents are halved by their hash:
one half chooses (search, short runs), the other is reported.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from minipuzzle import embedded
from minipuzzle.artifacts import read_json, write_json
from minipuzzle.data.documents import SEPARATOR, data_files, read_documents

HERE = Path(__file__).parent
MODEL = {
    "model_type": "nemotron_h", "vocab_size": 4096, "hidden_size": 1024, "hybrid_override_pattern": "M-M-M*-M-M-M*-M-M-M*-",
    "intermediate_size": 3072, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 32,
    "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 64, "conv_kernel": 4, "chunk_size": 128, "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2048, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
TINY = {**MODEL, "hidden_size": 64, "intermediate_size": 768, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 32, "mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 2, "ssm_state_size": 16}  # fmt: skip
BUDGETS = {"83%": ("83%",), "83%, memory": ("83%", "memory=80%"), "60%": ("60%",)}
"""Memory is at 131,072 tokens, where it cannot be had from parameters alone: attention blocks must go."""
SHARES = {"83%": (0.005, 0.024), "83%, memory": (0.005, 0.024), "60%": (0.01, 0.085)}
"""Of the teacher's tokens: each short run, the winner's long run."""
SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command, what it makes, the seconds it may take in all, and the folder that its run directory begins as."""

    name: str
    words: tuple[str, ...]
    product: Path
    seconds: int
    run: Path
    begins_as: Path | None = None


def main() -> None:
    """Run what is missing while there is time, then show the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="folder with {prose,code}.train.txt.xz and val/")
    parser.add_argument("--work", type=Path, default=Path(".carry/headline"))
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results" / "headline_experiment.json")
    parser.add_argument("--teacher-tokens", type=int, default=100_000_000)
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call")
    parser.add_argument("--precision", default="fp8", choices=("bf16", "fp8"))
    parser.add_argument("--tiny", action="store_true", help="a small model and text on a CPU, to try every stage")
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.tiny:
        options.teacher_tokens, options.precision, options.minutes = 40_000, "bf16", 1e3
        options.text = tiny_text(options.work / "source")
    until = time.time() + 60 * options.minutes
    split_validation(options.text / "val", options.work / "text")
    results = read_json(options.out) if options.out.exists() else {"stages": {}}
    results["options"] = {k: str(v) for k, v in vars(options).items()}
    for stage in stages(options):
        if not run_stage(stage, results, options.out, until):
            print(f"stopped in {stage.name!r}: the same command goes on from there")
            return
    write_json(options.out, {**results, **kept(options.work)})
    print(json.dumps({name: round(s["seconds"]) for name, s in results["stages"].items()}))


def stages(options: argparse.Namespace) -> Iterator[Stage]:
    """All stages in order. Scores are made once; each search begins from them, each further seed from its search."""
    work, device, tokens = options.work, ("--device", "cpu" if options.tiny else "cuda"), options.teacher_tokens
    length, text = "64" if options.tiny else "512", str(options.text)
    choose = str(work / "text" / "choose")
    samples = ("8", "4") if options.tiny else ("512", "128")
    yield pretraining("teacher", TINY if options.tiny else MODEL, options, tokens, 0, 900)
    scored = work / "scored"
    yield Stage(name="score", run=scored, product=scored / "scores.safetensors", seconds=300, words=(
        "score", str(work / "teacher/model"), "--run", str(scored), "--data", text, "--samples", samples[0], "--block-samples",
        samples[1], "--no-curves", "--length", length, *device))  # fmt: skip
    for name, budget in BUDGETS.items():
        run = work / name.replace(", ", "-")
        yield Stage(name=f"search {name}", run=run, begins_as=scored, product=run / "search.json", seconds=240, words=(
            "search", "--run", str(run), "--data", choose, *(w for b in budget for w in ("--budget", b)), "--context", "131072",
            "--least", "width=50%", "--candidates", "12" if options.tiny else "120", "--validation-blocks",
            "4" if options.tiny else "64", "--length", length, *device))  # fmt: skip
        short, long = (max(int(share * tokens), 256) for share in SHARES[name])
        for seed in range(1 if options.tiny or name != "83%" else SEEDS):
            own = run if seed == 0 else work / f"{run.name}-seed{seed}"
            yield Stage(name=f"distill {name}, seed {seed}", run=own, begins_as=run if seed else None, seconds=300,
                        product=own / "student" / "config.json", words=(
                "distill", "--run", str(own), "--data", text, "--validation", choose, "--tokens", str(long), "--short-tokens",
                str(short), "--batch", "2" if options.tiny else "16", "--seed", str(seed), "--learning-rate", "5e-4",
                "--precision", options.precision, "--length", length, *device))  # fmt: skip
        if name != "83%, memory":
            config = read_json(run / "student" / "config.json")
            yield pretraining(f"scratch {name}", config, options, short + long, 1, 240)
    report = work / "text" / "report"
    named = {"teacher": work / "teacher/model", **{n: work / p for n, p in {
        "83%": "83%/student", "83%, seed 1": "83%-seed1/student", "83%, seed 2": "83%-seed2/student",
        "83%, memory": "83%-memory/student", "60%": "60%/student", "83% from scratch": "scratch 83%/model",
        "60% from scratch": "scratch 60%/model"}.items() if (work / p).exists()}}  # fmt: skip
    yield Stage(name="tasks", run=work / "tasks", product=work / "tasks.json", seconds=400, words=(
        str(HERE / "headline_tasks.py"), *(f"{n}={p}" for n, p in named.items()), "--text", str(report), "--out",
        str(work / "tasks.json"), "--length", length, "--examples", "20" if options.tiny else "1000", *device))  # fmt: skip


def pretraining(name: str, model: dict[str, Any], options: argparse.Namespace, tokens: int, seed: int, seconds: int) -> Stage:
    """A model from nothing; its recipe is written beside its run directory."""
    run, tiny = options.work / name, options.tiny
    teacher = name == "teacher"
    batch = (4 if tiny else 128) if teacher else (2 if tiny else 16)
    recipe = {
        "model": model, "device": "cpu" if tiny else "cuda", "data": {"train": str(options.text), "validation":
            str(options.work / "text" / "report"), "length": 64 if tiny else 512},
        "training": {"tokens": tokens, "learning_rate": 1.5e-3, "batch": batch, "warmup": 0.02, "final_ratio": 0.02,
                     "seed": seed, "precision": options.precision, "checkpoint_seconds": 120.0},
    }  # fmt: skip
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return Stage(name=name, run=run, product=run / "model" / "training.json", seconds=seconds,
                 words=("pretrain", str(file), "--run", str(run)))  # fmt: skip


def run_stage(stage: Stage, results: dict[str, Any], out: Path, until: float) -> bool:
    """Make the stage's product unless it is there; False where time ran out first. Raises: SystemExit where it failed or
    took longer than its budget."""
    entry = results["stages"].setdefault(stage.name, {"seconds": 0.0, "command": " ".join(stage.words)})
    if stage.product.exists():
        return True
    if stage.begins_as is not None and not stage.run.exists():
        shutil.copytree(stage.begins_as, stage.run, symlinks=True, ignore=shutil.ignore_patterns("student", "distill", "eval*"))
    share_tokens(stage.run)
    left = min(until - time.time(), stage.seconds - entry["seconds"])
    if left < 20:
        return over_budget(stage, entry)
    started = time.time()
    code = run_words(stage.words, left, stage.run.parent)
    entry["seconds"] += time.time() - started
    write_json(out, results)
    print(f"{stage.name}: {entry['seconds']:.0f} s of {stage.seconds}", flush=True)
    if code:
        raise SystemExit(f"{stage.name} failed with exit code {code}: {' '.join(stage.words)}")
    return stage.product.exists() or over_budget(stage, entry)


def over_budget(stage: Stage, entry: dict[str, Any]) -> bool:
    """False, for time that ran out; an error where it is the stage's own."""
    if entry["seconds"] > stage.seconds - 20:
        raise SystemExit(f"{stage.name} has no product after {entry['seconds']:.0f} s of its {stage.seconds} s.")
    return False


def run_words(words: tuple[str, ...], seconds: float, work: Path) -> int:
    """Run a command of minipuzzle, or a script, for at most ``seconds``, then SIGTERM; its exit code, 0 where we ended it."""
    caches = {"TRITON_CACHE_DIR": work / "triton", "TORCHINDUCTOR_CACHE_DIR": work / "inductor", "TRITON_CACHE_AUTOTUNING": 1}
    environment = os.environ | {k: str(v) for k, v in caches.items()}
    start = [sys.executable] if words[0].endswith(".py") else [sys.executable, "-m", "minipuzzle"]
    process = subprocess.Popen([*start, *words], env=environment)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        return 0


def share_tokens(run: Path) -> None:
    """All run directories keep tokenised texts in one folder: the training text takes a minute to make."""
    common = run.parent / "tokens"
    common.mkdir(parents=True, exist_ok=True)
    run.mkdir(exist_ok=True)
    if not (run / "tokens").exists():
        (run / "tokens").symlink_to(common)


def split_validation(source: Path, target: Path) -> None:
    """Halves of the validation documents by their hash, in folders "choose" and "report"."""
    if (target / "report").exists():
        return
    for file in data_files(source):
        halves: dict[str, list[str]] = {"choose": [], "report": []}
        for document in read_documents(file):
            odd = hashlib.sha256(document.encode()).digest()[0] % 2
            halves["report" if odd else "choose"].append(document)
        for half, documents in halves.items():
            (target / half).mkdir(parents=True, exist_ok=True)
            (target / half / (file.name.split(".")[0] + ".val.txt")).write_text(SEPARATOR.join(documents))


def tiny_text(folder: Path) -> Path:
    """Small texts: the package's own prose, and its source as code."""
    (folder / "val").mkdir(parents=True, exist_ok=True)
    code = [file.read_text() for file in sorted((HERE.parent / "minipuzzle").glob("*/*.py"))]
    prose = {which: list(read_documents(embedded.text_path(which))) for which in ("train", "validation")}
    for name, documents in (("prose.train.txt", [d[:4000] for d in prose["train"][:20]]), ("code.train.txt", code[:20]),
                            ("val/prose.val.txt", [d[:4000] for d in prose["validation"]]), ("val/code.val.txt", code[-16:])):
        (folder / name).write_text(SEPARATOR.join(documents))
    return folder


def kept(work: Path) -> dict[str, Any]:
    """What remains of the run: tasks, winners and what they are, and thinned curves of training."""
    searches, curves = {}, {}
    for file in sorted(work.glob("*/run.json")):
        found = read_json(file)["stages"].get("distill")
        if found:
            searches[file.parent.name] = {k: found[k] for k in ("winner", "short_validation_loss", "final_kl", "tokens")}
    for file in sorted([*work.glob("*/pretrain/log.csv"), *work.glob("*/distill/long/log.csv")]):
        rows = list(csv.DictReader(file.open()))
        step = max(1, len(rows) // 20)
        points = [[int(float(row["tokens"])), round(float(row["loss"]), 4)] for row in rows[::step]]
        curves[str(file.relative_to(work).parent)] = points
    return {"tasks": read_json(work / "tasks.json"), "distilled": searches, "curves": curves}


if __name__ == "__main__":
    main()
