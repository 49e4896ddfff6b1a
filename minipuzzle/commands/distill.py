"""minipuzzle distill: train the best candidates with the original as teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minipuzzle.commands._shared import command, make_job, out, print_json, sizes
from minipuzzle.errors import UserError
from minipuzzle.settings.distill import DistillCommand
from minipuzzle.settings.lengths import at_length
from minipuzzle.settings.training import named_kinds
from minipuzzle.units import bytes_, sized

if TYPE_CHECKING:
    from minipuzzle.runs.job import Job


def run(line: DistillCommand) -> None:
    """Distil and print where the student is; where only the plan is wanted, print what it takes."""
    if line.plan:
        _print_plan(line)
        return
    with command(line.run):
        from minipuzzle.records import Distilled
        from minipuzzle.runs.distill import run_distill

        job = make_job(line.run, None, line.data, line.device)
        if line.settings.student_precision != "bf16":
            _quantised(line, job)
            return
        made = run_distill(job, line.settings, line.teacher)
        if line.as_json:
            done = job.run.stage(Distilled)
            print_json({"path": str(made.path), **sizes(made), **done.json()})
        else:
            size = sized(made.parameters, made.architecture.active_if_fewer)
            out.print(f"student: {made.path}  {size}    next: minipuzzle eval")


def _quantised(line: DistillCommand, job: Job) -> None:
    from minipuzzle.records import Quantised
    from minipuzzle.runs.qad import run_qad

    path = run_qad(job, line.settings, line.teacher)
    done = job.run.stage(Quantised)
    if line.as_json:
        print_json({"path": str(path), **done.json()})
    else:
        losses = (
            f"loss {done.validation_loss:.4f} ({done.after_validation_loss:.4f} without training,"
            f" {done.whole_validation_loss:.4f} whole)"
        )
        size = f"{bytes_(done.bytes)}, {done.format}"
        out.print(f"quantised: {path}  {size}    {losses}    next: minipuzzle export {path}")


def _print_plan(line: DistillCommand) -> None:
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.cost.distill_plan import DistillPlan
    from minipuzzle.report.plan import distill_plan_view

    if line.teacher is None or line.student is None:
        raise UserError(
            "A plan needs two models.",
            got=f"distill.teacher {line.teacher}, distill.student {line.student}",
            allowed="folders with a config.json; no weights are needed",
            next="For example docs/examples/nemotron-h-56b and docs/examples/nemotron-h-47b.",
        )
    settings, data = line.settings.at_first_length(line.data)
    lengths = settings.length or ((data.length, 1.0),)
    longest = lengths[-1][0]
    training = at_length(settings.training, data.length, longest)
    made = DistillPlan(
        student=read_config(line.student)[1],
        teacher=read_config(line.teacher)[1],
        tokens=training.tokens,
        length=longest,
        lengths=settings.length,
        context_parallel=training.context_parallel,
        expert_parallel=training.expert_parallel,
        micro_batch=max(1, training.micro_batch),
        recomputed=named_kinds(training.activation_checkpointing),
        teacher_ends=None if settings.teacher_precision == "bf16" else training.bf16_ends,
        optimizer=training.optimizer,
        offload=training.offload,
        batch=training.batch if training.micro_batch else 0,
        mfu=line.mfu,
        links=tuple(1e9 * link for link in line.links),
        device=line.gpu,
    )
    if line.as_json:
        print_json(made.json())
    else:
        out.print(distill_plan_view(made))
