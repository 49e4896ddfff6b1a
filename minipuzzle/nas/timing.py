"""Where a search takes its times from."""

from __future__ import annotations

from pathlib import Path

from minipuzzle.cost.latency import LatencyTable, Timing
from minipuzzle.cost.roofline import Roofline
from minipuzzle.settings import SearchSettings


def load_timing(settings: SearchSettings, default: Path) -> Timing | None:
    """The latency table or roofline that settings name, else the run's table; None where there is
    none.

    Raises: UserError for a table of another device or dtype than asked.
    """
    if settings.roofline:
        return Roofline(device=settings.roofline)
    path = Path(settings.latency) if settings.latency else default
    if not settings.latency and not path.exists():
        return None
    return LatencyTable.load(path, device=settings.target_device, dtype=settings.target_dtype)
