"""Shapes in signatures: named by all public tensor functions, and checked at every call."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
import shape_checks
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

import minipuzzle
from minipuzzle.kernels import reference
from minipuzzle.model.norm import RMSNorm
from minipuzzle.shapes import Float

HOME = Path(minipuzzle.__file__).parent
ROOMS = (
    "kernels/reference.py",
    "kernels/attention.py",
    "model/*.py",
    "importance/ends.py",
    "importance/readings.py",
    "importance/streams.py",
    "importance/metrics/*.py",
    "generation/*.py",
    "training/head_loss.py",
    "training/loss_tiles.py",
    "training/sparse.py",
    "metrics.py",
)
checked = pytest.mark.skipif(torch.cuda.is_available(), reason="shapes are checked on a CPU")


@checked
def test_a_wrong_shape_is_an_error():
    x, weight = torch.zeros(2, 5, 3), torch.zeros(3, 4)
    assert reference.causal_conv(x, weight, None, None).shape == x.shape
    for wrong in (torch.zeros(2, 5, 4), torch.zeros(5, 3), torch.zeros(2, 5, 3, dtype=torch.int64)):
        with pytest.raises(TypeCheckError):
            reference.causal_conv(wrong, weight, None, None)
    with pytest.raises(TypeCheckError):
        reference.causal_conv(x, weight, None, torch.zeros(2, 4, dtype=torch.int64))


@checked
def test_a_wrong_result_is_an_error_also_of_arguments_that_were_checked(monkeypatch):
    norm = RMSNorm(4, 1e-5)
    for x in (torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3, 7, 4)):
        assert norm(x).shape == x.shape
    for wrong in (lambda x: x[0], lambda x: x.long(), lambda x: None):
        with monkeypatch.context() as patched:
            patched.setattr("minipuzzle.model.norm.rms_norm", lambda x, *_, do=wrong: do(x))
            for x in (torch.zeros(2, 4), torch.zeros(5, 5, 4)):
                with pytest.raises(TypeCheckError):
                    norm(x)


@checked
def test_what_a_check_looks_at_decides_whether_a_call_was_checked():
    """A size that is a number, a tensor in a list, a dtype."""

    def stacked(parts: "list[Float[Tensor, 's d']]", size: int) -> "Float[Tensor, ' {size}']":
        return torch.cat(parts).sum(1)

    check = shape_checks.checked(stacked)
    one, two = torch.zeros(2, 3), torch.zeros(4, 3)
    for _ in range(2):
        assert check([one], 2).shape == (2,)
        assert check([one, one], 4).shape == (4,)
        for parts, size in (([one], 3), ([two], 2), ([one.long()], 2), ([one[0]], 3)):
            with pytest.raises(TypeCheckError):
                check(parts, size)


@checked
def test_about_sixty_functions_are_checked():
    for file in HOME.rglob("*.py"):
        if b"minipuzzle.shapes import" in file.read_bytes():
            name = ".".join(file.relative_to(HOME.parent).with_suffix("").parts)
            import_module(name.removesuffix(".__init__"))
    assert len(set(shape_checks.CHECKED)) >= 60


def public(tree):
    """The functions of a module and the methods of its classes that have no underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any("autograd" in ast.unparse(b) for b in node.bases):
            continue  # PyTorch's to call: the public function is what applies it
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                yield inner


@pytest.mark.parametrize("file", sorted({f for room in ROOMS for f in HOME.glob(room)}))
def test_public_tensor_functions_name_their_shapes(file):
    bare = [
        f"{function.name}({argument.arg})"
        for function in public(ast.parse(file.read_text()))
        for argument in (*function.args.args, *function.args.kwonlyargs)
        if argument.annotation is not None
        and ast.unparse(argument.annotation) in ("Tensor", "Tensor | None")
    ]
    assert not bare
