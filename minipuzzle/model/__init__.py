"""How blocks run. Knows no family; any widths per block."""

from minipuzzle.model.cache import Cache
from minipuzzle.model.fp8_weights import fp8_model
from minipuzzle.model.hybrid import HybridLM
from minipuzzle.model.load import frozen, frozen_model, init_model, load_frozen, load_model
from minipuzzle.model.precision import mixed_precision, set_precision

__all__ = [
    "Cache",
    "HybridLM",
    "fp8_model",
    "frozen",
    "frozen_model",
    "init_model",
    "load_frozen",
    "load_model",
    "mixed_precision",
    "set_precision",
]
