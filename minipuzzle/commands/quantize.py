"""minipuzzle quantize: the matrices of a checkpoint in 8 or 4 bits."""

from __future__ import annotations

from pathlib import Path

from minipuzzle.checked import table
from minipuzzle.commands._shared import config_only, out, print_json
from minipuzzle.settings.quantize import QuantizeCommand
from minipuzzle.units import bytes_, count


def run(line: QuantizeCommand) -> None:
    """Write it, and print what it takes; of a config.json alone, what would be written."""
    from minipuzzle.embedded import checkpoint_path

    path = checkpoint_path(line.checkpoint)
    if config_only(path):
        _plan(path, line)
        return
    from minipuzzle.runs.quantize import run_quantize

    written = run_quantize(
        path,
        line.target,
        line.format,
        line.group,
        rounding=line.rounding,
        kv=line.kv,
        data=line.data,
        samples=line.samples,
        device=line.device,
    )
    if line.as_json:
        print_json(table(written))
        return
    out.print(
        f"{line.format}: {written.path}  {bytes_(written.bytes)} ({written.bytes:,} bytes as"
        f" planned, was {bytes_(written.before)}); {written.matrices} matrices of"
        f" {count(written.quantised)} weights    next: vllm serve {written.path}",
        soft_wrap=True,
    )


def _plan(path: Path, line: QuantizeCommand) -> None:
    from minipuzzle import families
    from minipuzzle.checkpoint.cached import check_caching, scale_bytes
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.checkpoint.mix import formats, summary
    from minipuzzle.checkpoint.planned import check_groups, planned_bytes, split

    config, architecture = read_config(path)
    found = formats(config, len(architecture.blocks), line.format, line.group)
    family, buffers = families.of(config), architecture.buffers
    pieces = split(family, architecture, found)
    check_groups(pieces)

    def width(name: str) -> int:
        return 4 if name in buffers else 2

    size = planned_bytes(pieces, width)
    if line.kv == "fp8":
        size += scale_bytes(check_caching(pieces, architecture), width)
    matrices = sum(piece.format is not None for piece in pieces)
    if line.as_json:
        print_json({"format": line.format, "bytes": size, "matrices": matrices})
        return
    beside = ", without what is copied beside the text model" if families.copied(family) else ""
    out.print(
        f"{line.format}: {bytes_(size)} ({size:,} bytes) of BF16's"
        f" {bytes_(2 * architecture.parameters)}; {matrices} matrices{beside}."
        f" {summary(found)}. There are no weights here: nothing is written.",
        soft_wrap=True,
    )
