"""The losses of distillation, as a recipe and the command line write them. No torch."""

from __future__ import annotations

from minipuzzle.errors import UserError
from minipuzzle.registry import DIVERGENCES, LOSSES

DEFAULT_LOSS = "forward-kl"


def loss_terms(text: str) -> dict[str, float]:
    """{name: weight} of a sum such as "forward-kl+0.1*cross-entropy", of DIVERGENCES (one at most)
    and LOSSES of ``registry``. Raises: UserError where it is none.
    """
    divergences, others = DIVERGENCES.names(), LOSSES.names()
    terms: dict[str, float] = {}
    for part in text.split("+"):
        weight, _, name = part.rpartition("*")
        try:
            terms[name.strip()] = float(weight or 1)
        except ValueError:
            terms[part] = 0.0
    known = (*divergences, *others)
    good = all(name in known and weight > 0 for name, weight in terms.items())
    if not good or sum(name in divergences for name in terms) > 1:
        raise UserError(
            "This loss is not known.",
            got=text,
            allowed=f"{', '.join(known)}, or a sum of them with weights and at most one of"
            f" {', '.join(divergences)}",
            next='Write, say, "forward-kl+0.1*cosine".',
        )
    return terms
