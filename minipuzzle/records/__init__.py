"""The JSON files of a run directory: one dataclass a file, with ``load``, ``save`` and a schema
number. No torch.

Names in them become paths (candidates/NAME), so they are checked to be plain; numbers are finite.
"""

from minipuzzle.records.base import Record
from minipuzzle.records.run_record import (
    Adapted,
    Distilled,
    Pretrained,
    Pruned,
    RunRecord,
    Scored,
    Searched,
    Stage,
)

__all__ = [
    "Adapted",
    "Distilled",
    "Pretrained",
    "Pruned",
    "Record",
    "RunRecord",
    "Scored",
    "Searched",
    "Stage",
]
