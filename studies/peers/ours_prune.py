"""minipuzzle: score, search with the solver, reality check and local search, prune. Needs this
repository on its path.
"""

from pathlib import Path

from common import answer, request

from minipuzzle.records import Scored
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.prune import run_prune
from minipuzzle.runs.score import run_score
from minipuzzle.runs.search import run_search
from minipuzzle.settings import Data, ScoreSettings, SearchSettings

asked = request()
students = {}
for name, budget in asked["budgets"].items():
    run = Path(asked["out"]) / name
    job = Job(
        RunDir(run),
        checkpoint=Path(asked["teacher"]),
        data=Data(length=asked["length"]),
        device="cpu",
    )
    first = Path(asked["out"]) / next(iter(asked["budgets"]))
    if run != first:  # one scoring serves all budgets
        (run / "scores.safetensors").write_bytes((first / "scores.safetensors").read_bytes())
        job.run.mark(Scored(key=RunDir(first).key("score")))
    else:
        run_score(job, ScoreSettings(**asked["score"]))
    result = run_search(
        job, SearchSettings(budget=(str(budget),), method="solver", top=1, **asked["search"])
    )
    (best,) = run_prune(job).values()
    students[name] = {"checkpoint": str(best.path), "candidate": result.top[0]}
answer(("minipuzzle", "torch"), students=students)
