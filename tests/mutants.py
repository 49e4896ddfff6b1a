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
import ast
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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SEARCH = (
    "test_search_pencil",
    "test_local_search",
    "test_refine",
    "test_solve",
    "test_layers_search",
)
FILES = {
    "budget": ("test_time_budgets", "test_budget"),
    "space": (
        "test_space",
        "test_search_pencil",
        "test_cut_checks",
        "test_layers_search",
        "test_hidden_size",
    ),
    "cost/flops": ("test_roofline", "test_cost"),
    "cost/latency": ("test_time_budgets", "test_profile"),
    "cost/pricing": ("test_time_budgets", "test_refine"),
    "cost/roofline": ("test_roofline",),
    "cost/training": ("test_training_cost", "test_distill_plan"),
    "arch/ranking": ("test_search_pencil", "test_refine", "test_enumerate"),
    "arch/rules": ("test_cut_checks", "test_layers_search"),
    "arch/selection": ("test_cut_checks", "test_surgery"),
    "nas/choices": SEARCH,
    "nas/damage": ("test_search_pencil", "test_refine", "test_enumerate", "test_layer_scores"),
    "nas/enumerate": ("test_time_budgets", "test_layers_search", "test_enumerate"),
    "nas/propose": ("test_search_pencil", "test_local_search", "test_refine", "test_hidden_size"),
    "nas/rank": ("test_ranking", "test_refine"),
    "nas/refine": SEARCH,
    "nas/select": ("test_search_pencil", "test_layers_search", "test_enumerate"),
    "nas/solve": ("test_search_pencil", "test_local_search", "test_solve"),
    "training/divergences/jsd": ("test_losses", "test_loss_suite"),
    "training/divergences/reverse_kl": ("test_losses", "test_loss_suite"),
    "training/divergences/top_k": ("test_losses", "test_loss_suite"),
    "training/guard": ("test_training_oracles",),
    "training/objectives": ("test_training_oracles", "test_search_pencil", "test_losses"),
    "training/schedule": ("test_training_oracles",),
    "training/update": ("test_training_oracles",),
    "memory/footprint": ("test_cost",),
    "memory/training": ("test_training_cost", "test_distill_plan"),
    "memory/inference": ("test_bench", "test_generation"),
    "memory/scoring": ("test_memory",),
    "surgery": ("test_cut_checks", "test_surgery"),
}
COMPARE = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
OPERATE = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
}
NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "ceil": "int",
    "argmin": "argmax",
    "argmax": "argmin",
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


@dataclass(frozen=True)
class Mutant:
    """``new`` in place of the characters ``start`` to ``stop`` of a module's source."""

    module: str
    line: int
    old: str
    new: str
    start: int
    stop: int


def mutants(module: str) -> list[Mutant]:
    """Every place of a module that can be changed, in the order of its text."""
    text = (ROOT / "minipuzzle" / f"{module}.py").read_text()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    source = text.encode()
    found: list[Mutant] = []

    def change(node: ast.expr, new: str) -> None:
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        old = source[start:stop].decode()
        found.append(
            Mutant(
                module,
                node.lineno,
                old,
                f"({new})" if node_is_operation(node) else new,
                start,
                stop,
            )
        )

    for node in changeable(ast.parse(text)):
        match node:
            case ast.Compare(ops=[operation], left=left, comparators=[right]) if (
                type(operation) in COMPARE
            ):
                change(
                    node, f"({ast.unparse(left)}) {COMPARE[type(operation)]} ({ast.unparse(right)})"
                )
            case ast.BinOp(op=operation) if type(operation) in OPERATE:
                change(
                    node,
                    f"({ast.unparse(node.left)}) {OPERATE[type(operation)]}"
                    f" ({ast.unparse(node.right)})",
                )
            case ast.BoolOp():
                joint = " or " if isinstance(node.op, ast.And) else " and "
                change(node, joint.join(f"({ast.unparse(value)})" for value in node.values))
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                change(node, f"({ast.unparse(node.operand)})")
            case ast.Constant(value=bool()):
                change(node, str(not node.value))
            case ast.Constant(value=int()):
                change(node, repr(node.value + 1))
            case ast.Constant(value=float()):
                change(node, repr(1.5 * node.value + (node.value == 0)))
            case ast.Name(id=name) if name in NAMES:
                change(node, NAMES[name])
            case ast.IfExp():
                change(
                    node,
                    f"({ast.unparse(node.orelse)}) if {ast.unparse(node.test)} else"
                    f" ({ast.unparse(node.body)})",
                )
    return found


def node_is_operation(node: ast.expr) -> bool:
    """Whether the new text needs parentheses to stay one operand."""
    return isinstance(node, ast.Compare | ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.IfExp)


def changeable(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those of errors, types, imports, properties of dataclass fields and text."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Assert):
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue  # of zip: it finds our own faults, of which there are none to find
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, float)
            and 0 < node.value < 1e-6
        ):
            continue  # keeps a quotient from dividing by 0, whatever its size
        if isinstance(tree, ast.ClassDef) and node in tree.decorator_list:
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func).lstrip("_") in (
            "UserError",
            "refused",
            "error",
            "TypeVar",
        ):
            continue
        if isinstance(node, ast.AnnAssign) and isinstance(tree, ast.ClassDef):
            continue
        if isinstance(node, ast.arguments):
            continue
        if isinstance(node, ast.AnnAssign):
            found += changeable(node.value) if node.value is not None else []
            continue
        if isinstance(node, ast.FunctionDef):
            found += [n for part in node.body for n in (part, *changeable(part))]
            continue
        found += [node, *changeable(node)]
    return found


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
