"""What fits where: bytes by named term, before anything runs. Formulas; imports no torch.

``footprint``: weights and caches at a workload. ``inference``, ``pruning``, ``scoring``,
``searching``, ``training``: the peak of a command. ``cards``: what GPUs have. What only running a
block can tell comes in as numbers.
"""

from minipuzzle.memory.cards import CARDS, Card, card_of
from minipuzzle.memory.footprint import BYTES, Workload, resident
from minipuzzle.memory.peak import Need, Peak, check_fit, takes

__all__ = [
    "BYTES",
    "CARDS",
    "Card",
    "Need",
    "Peak",
    "Workload",
    "card_of",
    "check_fit",
    "resident",
    "takes",
]
