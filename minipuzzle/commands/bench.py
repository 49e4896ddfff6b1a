"""minipuzzle bench: speed and memory of models in turn."""

from __future__ import annotations

from minipuzzle.commands._shared import out, print_json
from minipuzzle.settings import Generation
from minipuzzle.settings.bench import BenchCommand


def run(line: BenchCommand) -> None:
    """Measure, or predict where only the plan is wanted, and print a row a model."""
    from minipuzzle.report.bench import bench_table, plan_table
    from minipuzzle.runs.bench import plan_bench, run_bench

    checkpoints = list(line.checkpoints)
    if line.plan:
        rows = plan_bench(
            checkpoints, prompt=line.prompt, output=line.output, dtype=line.dtype, state=line.state
        )
        if line.as_json:
            print_json([row.json() for row in rows])
        else:
            out.print(plan_table(rows, line.prompt, line.output))
        return
    work = Generation(batch=line.batch or 1, prompt=line.prompt, output=line.output)
    result = run_bench(
        checkpoints,
        work if line.batch else None,
        prompt=line.prompt,
        output=line.output,
        device=line.device,
        dtype=line.dtype,
        state=line.state,
        seconds=float("inf") if line.seconds is None else line.seconds,
        fp8_weights=line.weights == "fp8",
    )
    if line.as_json:
        print_json(result.json())
    else:
        out.print(bench_table(result))
