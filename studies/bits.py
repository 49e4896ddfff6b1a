"""Is a mix of formats that search chooses better than one format in as many bytes?

    python studies/bits.py RUN [--seeds 0 1] [--samples 64] [--blocks 32] [--refine 30]

The embedded teacher's blocks, all in NVFP4 or all in FP8, against `search --bits 4..16 --method
solver` in the same bytes (context 1: weights, hardly any cache), before any training. The search
sees one half of the validation text, the numbers are of the other. A seed draws the samples that
are scored. Prints a table; RUN/bits.json keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from minipuzzle.arch import Selection
from minipuzzle.cost.files import files_of
from minipuzzle.cost.pricing import memory
from minipuzzle.embedded import teacher_path
from minipuzzle.memory import Workload
from minipuzzle.ranks import ranks
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.parent import MaskedParent
from minipuzzle.runs.score import run_score
from minipuzzle.runs.search import run_search
from minipuzzle.settings import Data, ScoreSettings, SearchSettings

UNIFORM = {"nvfp4": 4, "fp8": 8}
BITS = "4..16"


def rows(run: Path, seed: int, line: argparse.Namespace) -> list[dict]:
    """Uniform and mixed of one seed."""
    data, blocks = Data(length=line.length), line.blocks
    job = Job(RunDir(run / str(seed)), checkpoint=teacher_path(), data=data, device="cpu")
    score = ScoreSettings(
        samples=line.samples, block_samples=line.samples // 2, bits="4..8", seed=seed
    )
    run_score(job, score)
    parent, found = job.parent.architecture, []
    with ranks(job.device) as group:
        measure = MaskedParent(job, job.validation("eval").take(blocks, seed=0), group)
        for name, bits in UNIFORM.items():
            settings = SearchSettings(budget=("1GiB",), bits=BITS, context=1)
            files = files_of(job.parent, settings.formats)
            size = memory(parent, Workload(context=1), files, bits)
            everything = Selection.everything(parent)
            uniform = Selection(blocks=everything.blocks, formats=(name,) * len(parent.blocks))
            settings = SearchSettings(
                budget=(f"memory={size // 1000}.{size % 1000:03}kB",),
                bits=BITS,
                context=1,
                method="solver",
                candidates=line.candidates,
                refine=line.refine,
                validation_blocks=blocks,
                top=1,
            )
            result = run_search(job, settings)
            best = result.candidates[0]
            mixed = result.selections[best.name]
            for label, selection, used in (
                (f"all {name}", uniform, size),
                ("mixed", mixed, best.bytes),
            ):
                (quality,) = measure([selection])
                found.append(
                    {
                        "seed": seed,
                        "budget": name,
                        "what": label,
                        "bytes": used,
                        "loss": quality.loss,
                        "kl": quality.kl,
                        "domains": {d: q.kl for d, q in quality.domains.items()},
                        "bits": list(best.bits or ()) if label == "mixed" else [bits],
                        "pattern": best.strip if label == "mixed" else parent.pattern,
                    }
                )
                print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """The table of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--blocks", type=int, default=32, help="of validation text, in each half")
    parser.add_argument("--length", type=int, default=256, help="tokens of a block")
    parser.add_argument("--samples", type=int, default=64, help="blocks that are scored")
    parser.add_argument("--candidates", type=int, default=20, help="of the solver")
    parser.add_argument("--refine", type=int, default=30, help="moves of the local search")
    line = parser.parse_args()
    found = [row for seed in line.seeds for row in rows(line.run, seed, line)]
    (line.run / "bits.json").write_text(json.dumps(found, indent=1) + "\n")
    print("| bytes of | | seed | bytes | loss | KL |\n|---|---|--:|--:|--:|--:|")
    for row in found:
        print(
            f"| all {row['budget']} | {row['what']} | {row['seed']} | {row['bytes']:,} |"
            f" {row['loss']:.4f} | {row['kl']:.4f} |"
        )


if __name__ == "__main__":
    main()
