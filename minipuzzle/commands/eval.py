"""minipuzzle eval: teacher, pruned model and student side by side."""

from __future__ import annotations

from minipuzzle.commands._shared import command, make_job, out, print_json
from minipuzzle.settings import Data
from minipuzzle.settings.evaluate import EvalCommand


def run(line: EvalCommand) -> None:
    """Measure on the text or on tasks, and print a row a model."""
    if line.tasks:
        (_questions if line.embedded else _tasks)(line)
        return
    with command(line.run):
        from minipuzzle.report.evaluated import eval_table
        from minipuzzle.runs.evaluate import run_eval

        job = make_job(line.run, line.parent, line.data, line.device)
        result = run_eval(job, list(line.checkpoints))
        if line.as_json:
            print_json(result.json())
        else:
            out.print(eval_table(result))


def _questions(line: EvalCommand) -> None:
    with command(line.run):
        from minipuzzle.report.answered import questions_table
        from minipuzzle.runs.questions import run_questions

        job = make_job(line.run, line.parent, Data(), line.device)
        result = run_questions(job, list(line.checkpoints), line.limit, line.longest)
        if line.as_json:
            print_json(result.json())
        else:
            out.print(questions_table(result))


def _tasks(line: EvalCommand) -> None:
    with command(line.run):
        from minipuzzle.report.evaluated import tasks_table
        from minipuzzle.runs.tasks import check_tasks, run_tasks

        checked = check_tasks(line.tasks, line.include, line.limit)
        job = make_job(line.run, line.parent, Data(), line.device)
        result = run_tasks(job, list(line.checkpoints), checked, line.include, line.limit)
        if line.as_json:
            print_json(result.json())
        else:
            out.print(tasks_table(result))
            out.print(f"lm-eval's own results: {line.run / 'lm_eval'}", soft_wrap=True)
