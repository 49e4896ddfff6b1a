"""What we write, served by vLLM, mlx-lm and llama.cpp, each in an environment of its own. Tables:
docs/results/serving.md; `minipuzzle export` says "ran" of what ran here.

    # CPU; environments 5 minutes, 20 seconds a checkpoint in vLLM, 3 in the others
    PYTHONPATH=tests:benchmarks python studies/engines.py run FOLDER [--envs ENVS] [--only WORD …]
    python studies/engines.py speed FOLDER [--envs ENVS]          # 2 minutes of CPU
    python studies/engines.py table                               # of docs/results/serving.json.xz
    python studies/engines.py ran                                 # its rows of export/ran.json

`run` makes the checkpoints of engines_checkpoints.py in FOLDER and compares greedy tokens after a
prompt, and log probabilities of all words up to and with the first other token: with our own
forward in FP32, or for a quantised checkpoint with transformers, which rounds activations as the
format says. Results that are there are kept; `--only WORD …` does anew what has such a name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import kept
import numpy as np
import torch
from conftest import VOCAB
from engines_checkpoints import Served, checkpoints, larger
from engines_table import WHERE, Row, ran_rows, tables
from family_models import unclamped
from peer_environments import FOLDER, QUIET, environment
from transformers import AutoModelForCausalLM

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.checkpoint.quantised import MIXED
from minipuzzle.data import Tokenizer, read_documents
from minipuzzle.errors import UserError
from minipuzzle.export.engines.base import DELTA_NETS
from minipuzzle.export.gguf import export_gguf
from minipuzzle.generation import generate
from minipuzzle.model import load_model

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / WHERE
RAN = ROOT / "minipuzzle/export/ran.json"
PROMPT, STEPS = 48, 64
FP8_PROMPT, FP8_STEPS = 16, 16
"""Of formats whose product on a CPU is torch's plain loop: a second a token."""
SECONDS = 900
VLLM, MLX, LLAMA_CPP = "vllm", "mlx", "llama-cpp"
BATCH, TURNS = 4, 2
GGUF_DTYPES = ("f32", "f16", "bf16", "q8_0")


def lengths(served: Served) -> tuple[int, int]:
    """(tokens of the prompt, greedy tokens after it)."""
    fp8 = served.format in ("fp8", "fp8-static", MIXED)
    return (FP8_PROMPT, FP8_STEPS) if fp8 else (PROMPT, STEPS)


@lru_cache
def prompt() -> list[int]:
    """The first tokens of the validation text."""
    text = next(read_documents(embedded.text_path("validation") / "speeches.txt.bz2"))
    return Tokenizer.load(embedded.teacher_path()).encode(text[:400], special_tokens=False)[:PROMPT]


@lru_cache(maxsize=2)
@torch.no_grad()
def expected(served: Served) -> tuple[list[int], np.ndarray]:
    """(greedy tokens [steps], log p [steps, vocabulary]) of ours, or of transformers where the
    checkpoint is quantised.
    """
    length, steps = lengths(served)
    tokens = prompt()[:length]
    if served.format is None:
        model = load_model(Checkpoint.open(served.path)).float().eval()
        found = generate(model, [tokens], steps)[0]
        logits = model(torch.tensor([tokens + found]))[0]
    else:
        theirs = AutoModelForCausalLM.from_pretrained(
            served.path, dtype=torch.float32, trust_remote_code=True
        )
        model, found = unclamped(theirs.eval()), []
        for _ in range(steps):
            logits = model(torch.tensor([tokens + found]), use_cache=False).logits[0]
            found.append(int(logits[-1].argmax()))
        logits = model(torch.tensor([tokens + found]), use_cache=False).logits[0]
    log_p = torch.log_softmax(logits.float(), -1)[length - 1 : -1]
    return found, log_p.numpy()


def compared(
    tokens: list[int], log_p: np.ndarray, theirs: list[int], their_log_p: np.ndarray
) -> dict[str, Any]:
    """Tokens equal to ours before the first other one; the largest difference of log p up to it;
    the margin [nats] of ours there.
    """
    steps = len(tokens)
    same = next((i for i, (a, b) in enumerate(zip(tokens, theirs, strict=True)) if a != b), steps)
    until = min(same + 1, steps)
    words = min(log_p.shape[1], their_log_p.shape[1])
    off = np.abs(log_p[:until, :words] - their_log_p[:until, :words])
    top = np.sort(log_p[:until], axis=1)[:, -2:]
    margins = top[:, 1] - top[:, 0]
    return {
        "equal": same,
        "log_p": float(f"{np.nanmax(off):.2g}"),
        "margin": float(f"{margins[-1] if same < steps else margins.min():.2g}"),
    }


class Engine:
    """An engine's script (studies/peers/serve_NAME.py), started at the first request."""

    def __init__(self, name: str, envs: Path) -> None:
        self.name, self._envs = name, envs
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, request: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The answer; {"error": ...} where there is none."""
        if self._process is None:
            script = FOLDER / f"serve_{self.name.replace('-', '_')}.py"
            self._process = subprocess.Popen(
                [str(environment(self._envs, self.name, alone=True)), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT / "tests")},
            )
        answer = folder / "answer.json"
        told, said = self._process.stdin, self._process.stdout
        assert told
        assert said
        told.write(json.dumps({**request, "answer": str(answer), "seconds": SECONDS}) + "\n")
        told.flush()
        if not said.readline():
            return {"error": "the script ended: start it by hand"}
        if not answer.exists():
            return {"error": f"died, or was not finished in {SECONDS} s"}
        return dict(json.loads(answer.read_text()))


def serve(engine: Engine, served: Served, dtype: str) -> Row:
    """The row of a checkpoint in an engine."""
    length, steps = lengths(served)
    common = {
        "engine": engine.name,
        "checkpoint": served.name,
        "family": served.family,
        "experts": served.experts,
        "format": served.format,
        "dtype": dtype,
        "date": date.today().isoformat(),
        "steps": steps,
    }
    config, architecture = read_config(served.path)
    with tempfile.TemporaryDirectory() as folder:
        path = served.path
        if engine.name == LLAMA_CPP:
            path = Path(folder) / "model.gguf"
            try:
                export_gguf(Checkpoint.open(served.path), path, dtype)
            except UserError as error:
                return Row(**common, error=f"not written: {error.what} {error.got}")
        request = {
            "checkpoint": str(path),
            "prompt": prompt()[:length],
            "steps": steps,
            "dtype": dtype,
            "classes": "auto_map" in config,
            "vocabulary": architecture.vocab_size,
            "log_p": f"{folder}/log_p.npy",
        }
        answer = engine(request, Path(folder))
        if "error" in answer:
            return Row(**common, error=answer["error"])
        theirs = np.load(f"{folder}/log_p.npy")
    numbers = compared(*expected(served), answer["tokens"], theirs)
    return Row(**common, version=answer["version"], **numbers)


def wanted(served: Served) -> list[tuple[str, str]]:
    """(engine, dtype) in which a checkpoint is served."""
    # all that it has for a CPU
    half = "int4" in served.name or served.family in DELTA_NETS
    vllm = (VLLM, "bfloat16" if half else "float32")
    if served.format is not None:
        return [vllm, (MLX, "float32")]
    gguf = GGUF_DTYPES if served.name in ("teacher", "per-block") else ("f32",)
    halves = [(VLLM, "bfloat16")] if served.name == "teacher" else []
    return [vllm, *halves, (MLX, "float32"), *((LLAMA_CPP, d) for d in gguf)]


def rows_kept() -> list[Row]:
    """The results that are there."""
    said = kept.read(RESULTS) if RESULTS.exists() else {"served": []}
    return [Row(**row) for row in said["served"]]


def keep(**values: Any) -> None:
    """Write results over those that are there."""
    said = kept.read(RESULTS) if RESULTS.exists() else {}
    kept.write(RESULTS, {**said, **values})


def run(folder: Path, envs: Path, only: list[str]) -> None:
    """Serve what has no result yet; with ``only`` those whose names have one of the words, anew."""
    rows = rows_kept()
    engines = {name: Engine(name, envs) for name in (VLLM, MLX, LLAMA_CPP)}
    for served in checkpoints(folder):
        if only and not any(word in served.name for word in only):
            continue
        for engine, dtype in wanted(served):
            key = (engine, served.name, dtype)
            if not only and any(row.key == key for row in rows):
                continue
            found = serve(engines[engine], served, dtype)
            rows = [row for row in rows if row.key != key] + [found]
            keep(served=[asdict(row) for row in rows])
            print(found, flush=True)


def speed(folder: Path, envs: Path) -> dict[str, Any]:
    """The parent and student of ``larger`` in vLLM on a core, in turns: CPU seconds of a round of
    BATCH prompts, and the ratio of the turns.
    """
    parent, student = larger(folder / "larger")
    engine, words = Engine(VLLM, envs), np.random.default_rng(0)
    batch = words.integers(10, VOCAB, (BATCH, 64)).tolist()
    seconds: dict[str, list[list[float]]] = {"parent": [], "student": []}
    for _ in range(TURNS):
        for name, checkpoint in (("parent", parent), ("student", student)):
            request = {
                "checkpoint": str(checkpoint.path),
                "batch": batch,
                "rounds": 2,
                "steps": 32,
                "dtype": "float32",
                "classes": name == "student",
            }
            with tempfile.TemporaryDirectory() as answers:
                answer = engine(request, Path(answers))
            seconds[name].append(answer["seconds"])
            print(name, answer, flush=True)
    ratios = [float(np.median(p) / np.median(s)) for p, s in zip(*seconds.values(), strict=True)]
    return {
        "parameters": [parent.architecture.parameters, student.architecture.parameters],
        "tokens": [BATCH, 64, 32],
        "seconds": seconds,
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "speed", "table", "ran"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--envs", type=Path, default=Path("/tmp/engines"))
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "run":
        run(options.folder, options.envs, options.only)
    if options.what == "speed":
        keep(speed=speed(options.folder, options.envs))
    rows = rows_kept()
    if options.what == "table":
        print(tables(rows))
    if options.what == "ran":
        others = [row for row in json.loads(RAN.read_text()) if row["where"] != WHERE]
        lines = [json.dumps(row) for row in (*others, *ran_rows(rows))]
        RAN.write_text("[\n  " + ",\n  ".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
