"""Small wrong changes of the code, and whether the tests see them. Run by hand, from the project's
folder:

    python tests/mutants.py --count 100 --seed 0 --out build/mutants.jsonl

A seeded sample of all places in FILES where a comparison, an operation, a number, a ``not``,
``min`` or ``any`` can be turned into its neighbour. Each is tried in a forked child, whose import
of that one module sees the changed source, on the test files named beside it; nothing on disk is
changed. Text of errors, types and defaults of settings are left out: they are not what these tests
are for. A result is printed for each and, with a number and the survivors, at the end.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mutations import ROOT, Mutant, mutants

SEARCH = (
    "test_search_pencil",
    "test_coupled_blocks",
    "test_repair",
    "test_local_search",
    "test_refine",
    "test_solve",
    "test_layers_search",
)
SPACE = (
    "test_space",
    "test_search_pencil",
    "test_cut_checks",
    "test_layers_search",
    "test_hidden_size",
)
FILES = {
    "settings/budget": ("test_time_budgets", "test_budget"),
    "space/level": SPACE,
    "space/ranges": SPACE,
    "space/sizes": SPACE,
    "cost/flops": ("test_roofline", "test_cost"),
    "cost/latency": ("test_time_budgets", "test_profile"),
    "cost/pricing": ("test_time_budgets", "test_refine"),
    "cost/roofline": ("test_roofline",),
    "cost/training": ("test_training_cost", "test_distill_plan"),
    "kinds/width": ("test_widths", "test_search_of_new_kinds", "test_kept"),
    "kernels/routing": ("test_routing",),
    "kernels/experts": ("test_experts",),
    "kernels/grouped": ("test_grouped",),
    "kernels/grouped_fp8": ("test_grouped_fp8", "test_experts_fp8"),
    "arch/rules": ("test_cut_checks", "test_layers_search"),
    "arch/selection": ("test_cut_checks", "test_selection", "test_surgery"),
    "nas/choices": SEARCH,
    "nas/damage": ("test_search_pencil", "test_refine", "test_kept", "test_layer_scores"),
    "nas/enumerate": ("test_time_budgets", "test_layers_search", "test_enumerate"),
    "nas/propose": (
        "test_search_pencil",
        "test_coupled_blocks",
        "test_local_search",
        "test_refine",
        "test_hidden_size",
    ),
    "nas/rank": ("test_ranking", "test_refine"),
    "nas/refine": SEARCH,
    "nas/select": ("test_search_pencil", "test_layers_search", "test_enumerate", "test_kept"),
    "nas/solve": ("test_search_pencil", "test_coupled_blocks", "test_local_search", "test_solve"),
    "training/divergences/jsd": ("test_losses", "test_loss_suite"),
    "training/divergences/reverse_kl": ("test_losses", "test_loss_suite"),
    "training/divergences/top_k": ("test_losses", "test_loss_suite"),
    "training/guard": ("test_training_oracles",),
    "training/objectives": ("test_training_oracles", "test_objectives", "test_losses"),
    "training/schedule": ("test_training_oracles",),
    "training/update": ("test_training_oracles",),
    "memory/footprint": ("test_cost",),
    "memory/training": ("test_training_cost", "test_distill_plan"),
    "memory/inference": ("test_inference_bytes", "test_bench", "test_generation"),
    "memory/scoring": ("test_memory",),
    "surgery": ("test_cut_checks", "test_surgery"),
}
SECONDS = 240
PYTEST = (
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
TESTS_FAILED = (1, 2)
"""pytest's codes for a failed test, and for one that could not be collected because the change
broke an import.
"""


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from the changed source."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = "minipuzzle." + mutant.module.replace("/", ".")
        self.path = str(ROOT / "minipuzzle" / f"{mutant.module}.py")
        whole = Path(self.path).read_bytes()
        self.data = whole[: mutant.start] + mutant.new.encode() + whole[mutant.stop :]

    def find_spec(self, fullname, path=None, target=None):
        """Ours, or None."""
        return (
            importlib.util.spec_from_loader(fullname, self, origin=self.path)
            if fullname == self.name
            else None
        )

    def get_filename(self, fullname: str) -> str:
        """Where the unchanged source lies."""
        return self.path

    def get_data(self, path: str) -> bytes:
        """The changed source; no compiled code is kept."""
        if path != self.path:
            raise OSError
        return self.data


def start(mutant: Mutant) -> int:
    """The process in which the tests of its module run on the changed source."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    import pytest
    import shape_checks

    shape_checks.install = lambda: None  # else it reads modules whose signatures have shapes itself
    sys.meta_path.insert(0, Changed(mutant))
    tests = [str(ROOT / "tests" / f"{name}.py") for name in FILES[mutant.module]]
    try:
        code = int(pytest.main([*PYTEST, *tests]))
    except BaseException:  # a test that ends the process ends this child
        code = 1
    os._exit(code)


def verdict(status: int) -> str:
    """What a child's end says."""
    code = os.waitstatus_to_exitcode(status)
    return (
        "survived"
        if code == 0
        else "killed"
        if code in TESTS_FAILED or code < 0
        else f"pytest's {code}"
    )


def tried(mutants: list[Mutant], workers: int) -> Iterator[tuple[Mutant, str, float]]:
    """(mutant, "killed", "survived" or "hang", seconds) of each, as they end, ``workers`` at a
    time.
    """
    waiting, running = list(mutants), dict[int, tuple[Mutant, float]]()
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop(0)
            running[start(mutant)] = mutant, time.monotonic()
        for child, (mutant, began) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            took = time.monotonic() - began
            if not done and took > SECONDS:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            if done or took > SECONDS:
                del running[child]
                yield mutant, verdict(status) if done else "hang", took
        time.sleep(0.05)


def main() -> None:
    """Try a sample and say what lived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="children at once")
    parser.add_argument("--only", default="", help="modules that begin so")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    every = [
        mutant for module in FILES if module.startswith(options.only) for mutant in mutants(module)
    ]
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    for heavy in (
        "hypothesis",
        "scipy.interpolate",
        "scipy.optimize",
        "transformers",
    ):  # paid once, before the forks
        importlib.import_module(heavy)
    import torch

    torch.set_num_threads(1)
    unchanged = [
        Mutant(module, 0, "", "", 0, 0)
        for module in dict.fromkeys(mutant.module for mutant in chosen)
    ]
    for mutant, result, _ in tried(unchanged, options.workers):
        if result != "survived":
            sys.exit(f"the tests of {mutant.module} do not pass as it is: {result}")
    print(f"the tests of {len(unchanged)} modules pass as they are", flush=True)
    counts = Counter[str]()
    for number, (mutant, result, seconds) in enumerate(tried(chosen, options.workers), start=1):
        counts[result] += 1
        where = f"{mutant.module}:{mutant.line}"
        print(
            f"{number:4} {result:8} {seconds:6.1f} s  {where}  {mutant.old}  ->  {mutant.new}",
            flush=True,
        )
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            with options.out.open("a") as file:
                file.write(
                    json.dumps({"result": result, "seconds": round(seconds, 1), **vars(mutant)})
                    + "\n"
                )
    said = ", ".join(f"{count} {result}" for result, count in counts.most_common())
    print(f"{len(chosen)} of {len(every)} changes, seed {options.seed}: {said}")


if __name__ == "__main__":
    main()
