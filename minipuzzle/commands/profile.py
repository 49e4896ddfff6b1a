"""minipuzzle profile: times of every distinct block on this machine."""

from __future__ import annotations

from minipuzzle.commands._shared import command, out, print_json
from minipuzzle.rundir import RunDir
from minipuzzle.settings.profile import ProfileCommand


def run(line: ProfileCommand) -> None:
    """Measure, and print how well the times of blocks add up."""
    with command(line.run):
        from minipuzzle.checkpoint.config import read_config
        from minipuzzle.report.latency import profile_table
        from minipuzzle.runs.job import choose_checkpoint
        from minipuzzle.runs.profile import run_profile

        path = choose_checkpoint(line.checkpoint, RunDir(line.run))
        file = line.run / "latency.json"
        table = run_profile(
            read_config(path)[1],
            line.works(),
            file,
            device=line.device,
            dtype=line.dtype,
            widths=line.widths,
        )
        if line.as_json:
            print_json(table.meta)
        else:
            out.print(profile_table(table))
            out.print(f"table: {file}    next: minipuzzle search --budget 1.2x")
