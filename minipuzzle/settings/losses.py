"""The losses of distillation, as a recipe and the command line write them. No torch."""

from __future__ import annotations

from minipuzzle.errors import UserError

DEFAULT_LOSS = "forward-kl"
LOSSES = ("forward-kl", "reverse-kl", "jsd", "top-k", "cosine", "cross-entropy")
"""The first four compare distributions, and one of them at most can be in a sum
(``training.divergences``).
"""


def loss_terms(text: str) -> dict[str, float]:
    """{name: weight} of a sum of LOSSES such as "forward-kl+0.1*cross-entropy". Raises: UserError
    where it is none.
    """
    terms: dict[str, float] = {}
    for part in text.split("+"):
        weight, _, name = part.rpartition("*")
        try:
            terms[name.strip()] = float(weight or 1)
        except ValueError:
            terms[part] = 0.0
    good = all(name in LOSSES and weight > 0 for name, weight in terms.items())
    if not good or sum(name in LOSSES[:4] for name in terms) > 1:
        raise UserError(
            "This loss is not known.",
            got=text,
            allowed=f"{', '.join(LOSSES)}, or a sum of them with "
            "weights and at most one of the first four",
            next='Write, say, "forward-kl+0.1*cosine".',
        )
    return terms
