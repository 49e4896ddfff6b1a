"""A pruned student served by llama.cpp, against our own forward. Table: docs/results/serving.md.

    # CPU, one thread, a minute
    PYTHONPATH=tests python benchmarks/serving.py --json out/serving.json

The embedded teacher is cut to another FFN width in each of its blocks and one block fewer (as in
tests/test_gguf.py), and written in each dtype. Measured over 64 greedy steps after the same prompt:
how many words are ours, the largest difference of log probabilities over the whole vocabulary at
the steps before the first other word, file size, and decoding speed as a ratio to our own cached
decoding in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from llama_cpp_server import LlamaCpp

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import read_documents
from minipuzzle.export.gguf import DTYPES, export_gguf
from minipuzzle.generation import generate
from minipuzzle.model import load_model
from minipuzzle.surgery import cut

STEPS, PROMPT = 64, 48
WIDTHS = (896, 832, 704, 640, 800, 512)


def student(folder: Path) -> Checkpoint:
    """The embedded teacher with a width of its own in every feed-forward block, without block
    11.
    """
    parent, widths = Checkpoint.open(embedded.teacher_path()), iter(WIDTHS)
    kept = [
        {"intermediate": tuple(range(next(widths)))} if b.kind == "mlp" else {}
        for b in parent.architecture.blocks
    ]
    return cut(parent, Selection(blocks=(*kept[:11], None, *kept[12:])), folder / "student")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        checkpoint = student(Path(name))
        model = load_model(checkpoint).eval()
        text = next(read_documents(embedded.text_path("validation") / "speeches.txt.bz2"))
        for dtype in DTYPES:
            written = export_gguf(checkpoint, Path(name) / f"{dtype}.gguf", dtype)
            with LlamaCpp(written.path) as server:
                prompt = server.tokenize(text[:400])[:PROMPT]
                started = time.perf_counter()
                ours = prompt + generate(model, [prompt], STEPS)[0]
                seconds = time.perf_counter() - started
                tokens, steps = server.greedy(
                    prompt, STEPS, words=checkpoint.architecture.vocab_size
                )
                started = time.perf_counter()
                server.greedy(prompt, STEPS, words=0)
                theirs = time.perf_counter() - started
            same = next(
                (i for i, (a, b) in enumerate(zip(tokens, ours[PROMPT:], strict=True)) if a != b),
                STEPS,
            )
            log_p = torch.log_softmax(model(torch.tensor([ours]))[0], -1)[PROMPT - 1 : -1]
            off = max(
                abs(p - log_p[i, w].item())
                for i, step in enumerate(steps[: same + 1])
                for w, p in step.items()
                if i < STEPS
            )
            rows.append(
                {
                    "dtype": dtype,
                    "bytes": written.bytes,
                    "equal_steps": same,
                    "largest_log_p_difference": off,
                    "speed_over_ours": seconds / theirs,
                }
            )
    facts = {
        "versions": {n: version(n) for n in ("xllamacpp", "gguf", "torch", "transformers")},
        "rows": rows,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(facts["versions"])
    for r in rows:
        print(
            f"{r['dtype']:>5} {r['bytes']:>12,} bytes  {r['equal_steps']}/{STEPS} words equal  log"
            f" p within {r['largest_log_p_difference']:.1e}  decoding {r['speed_over_ours']:.1f}x"
            " ours"
        )


if __name__ == "__main__":
    main()
