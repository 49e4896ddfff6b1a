"""Shapes in types: ``Float[Tensor, "b s d"]`` is a tensor of three axes; equal letters in one
signature are equal sizes.

    b rows            s tokens of a row    n tokens of any rows    t tokens in a cache
    d hidden          v vocabulary         c channels              r what a product sums over
    h heads           p head_dim           g groups                z state
    w channels of a value of the delta rule
    e experts         i channels of an expert
    k taps, entries, sums, choices         *rest any axes          #b the size b, or 1

People and mypy read them (to mypy they are the plain ``Tensor``); tests check them at every call
(tests/shape_checks.py). Without jaxtyping, which only tests need, they say nothing at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Float32
    from typing import Annotated as Float64
    from typing import Annotated as Int
else:
    try:
        from jaxtyping import Bool, Float, Float32, Float64, Int
    except ModuleNotFoundError:
        from typing import Annotated

        Bool = Float = Float32 = Float64 = Int = Annotated

__all__ = ["Bool", "Float", "Float32", "Float64", "Int"]
