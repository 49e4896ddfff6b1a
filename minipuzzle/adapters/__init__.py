"""Small trainable factors beside frozen weights: LoRA, Tied-LoRA and what lies between, on any
projection.
"""

from minipuzzle.adapters.factors import Adapters, attach, check_start, detach
from minipuzzle.adapters.merge import merge, open_adapter
from minipuzzle.adapters.peft import export_peft, import_peft
from minipuzzle.adapters.plan import PRESETS, AdapterPlan, make_plan, parse_mask
from minipuzzle.adapters.saved import SavedAdapter, read_adapter

__all__ = [
    "PRESETS",
    "AdapterPlan",
    "Adapters",
    "SavedAdapter",
    "attach",
    "check_start",
    "detach",
    "export_peft",
    "import_peft",
    "make_plan",
    "merge",
    "open_adapter",
    "parse_mask",
    "read_adapter",
]
