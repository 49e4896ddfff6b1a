"""Every place of a module where a small wrong change can be made, and what is put there."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
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
