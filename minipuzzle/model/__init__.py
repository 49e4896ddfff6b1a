"""How blocks run. Knows no family; any widths per block.

A kind runs by the file that is named as its file in ``minipuzzle.kinds`` (``minipuzzle.model.base``
says what such a file holds).
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

from minipuzzle import kinds
from minipuzzle.model.cache import Cache
from minipuzzle.model.fp8_weights import fp8_model, keep_codes
from minipuzzle.model.hybrid import HybridLM
from minipuzzle.model.load import frozen, frozen_model, init_model, load_frozen, load_model
from minipuzzle.model.precision import mixed_precision, set_precision
from minipuzzle.model.reshard import gather_ahead, gather_once, in_shards, reshard
from minipuzzle.model.streamed import StreamedLM

for _file in iter_modules(kinds.__path__):
    if find_spec(f"{__name__}.{_file.name}") is not None:
        import_module(f"{__name__}.{_file.name}")

__all__ = [
    "Cache",
    "HybridLM",
    "StreamedLM",
    "fp8_model",
    "frozen",
    "frozen_model",
    "gather_ahead",
    "gather_once",
    "in_shards",
    "init_model",
    "keep_codes",
    "load_frozen",
    "load_model",
    "mixed_precision",
    "reshard",
    "set_precision",
]
