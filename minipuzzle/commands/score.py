"""minipuzzle score: every block, FFN channel and head on calibration text."""

from __future__ import annotations

from minipuzzle.commands._shared import command, make_job, out, print_json
from minipuzzle.settings.score import ScoreCommand


def run(line: ScoreCommand) -> None:
    """Score, and print a row a block."""
    with command(line.run):
        from minipuzzle.report.tables import scores_table
        from minipuzzle.runs.score import run_score

        job = make_job(line.run, line.checkpoint, line.data, line.device)
        scores = run_score(job, line.settings)
        file = line.run / "scores.safetensors"
        if line.as_json:
            print_json({"file": str(file), "blocks": scores.blocks.tolist(), "meta": scores.meta})
        else:
            out.print(scores_table(job.parent.architecture.pattern, scores))
            out.print(f"scores: {file}    next: minipuzzle search --budget 83%")
