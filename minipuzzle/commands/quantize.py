"""minipuzzle quantize: the matrices of a checkpoint in 8 or 4 bits."""

from __future__ import annotations

from minipuzzle.checked import table
from minipuzzle.commands._shared import out, print_json
from minipuzzle.settings.quantize import QuantizeCommand
from minipuzzle.units import bytes_, count


def run(line: QuantizeCommand) -> None:
    """Write it, and print what it takes."""
    from minipuzzle.embedded import checkpoint_path
    from minipuzzle.runs.quantize import run_quantize

    path = checkpoint_path(line.checkpoint)
    written = run_quantize(
        path,
        line.target,
        line.format,
        line.group,
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
