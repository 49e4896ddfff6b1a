"""minipuzzle adapt: LoRA, Tied-LoRA and what lies between, on weights that stay as they are."""

from __future__ import annotations

from minipuzzle.commands._shared import command, make_job, out, print_json
from minipuzzle.settings.adapt import AdaptCommand


def run(line: AdaptCommand) -> None:
    """Train the adapter, and print where it is."""
    with command(line.run):
        from minipuzzle.runs.adapt import run_adapt

        job = make_job(line.run, line.checkpoint, line.data, line.device)
        file, done = run_adapt(job, line.settings, line.teacher)
        size = file.stat().st_size
        if line.as_json:
            print_json({"path": str(file), "bytes": size, **done.json()})
        else:
            out.print(
                f"adapter: {file}  {size:,} bytes    next: minipuzzle merge CHECKPOINT {file}",
                soft_wrap=True,
            )
