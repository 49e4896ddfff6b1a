"""The JSON files of a run directory: one dataclass a file, with ``load``, ``save`` and a schema
number. No torch.

Names in them become paths (candidates/NAME), so they are checked to be plain; numbers are finite.
"""

from minipuzzle.records.base import Record
from minipuzzle.records.command_log import CommandLog, CommandRow
from minipuzzle.records.eval_result import CostRow, EvalResult, EvalRow, TextNumbers
from minipuzzle.records.partial import PartialPrune, PartialSearch
from minipuzzle.records.questions_result import Answered, QuestionsResult, QuestionsRow
from minipuzzle.records.run_record import (
    Adapted,
    Distilled,
    Original,
    Pretrained,
    Pruned,
    Quantised,
    RunRecord,
    Scored,
    Searched,
    Stage,
    StepRow,
)
from minipuzzle.records.search_result import (
    CandidateRow,
    DomainRow,
    Fitting,
    Front,
    FrontPoint,
    ParentCost,
    ParentModel,
    SearchBudget,
    SearchResult,
    SearchSpace,
    SolverFacts,
    Step,
)
from minipuzzle.records.tasks_result import TaskRow, TasksResult
from minipuzzle.records.training_record import ExpertLoadRecord, LegRecord, TrainingRecord, load_log

__all__ = [
    "Adapted",
    "Answered",
    "CandidateRow",
    "CommandLog",
    "CommandRow",
    "CostRow",
    "Distilled",
    "DomainRow",
    "EvalResult",
    "EvalRow",
    "ExpertLoadRecord",
    "Fitting",
    "Front",
    "FrontPoint",
    "LegRecord",
    "Original",
    "ParentCost",
    "ParentModel",
    "PartialPrune",
    "PartialSearch",
    "Pretrained",
    "Pruned",
    "Quantised",
    "QuestionsResult",
    "QuestionsRow",
    "Record",
    "RunRecord",
    "Scored",
    "SearchBudget",
    "SearchResult",
    "SearchSpace",
    "Searched",
    "SolverFacts",
    "Stage",
    "Step",
    "StepRow",
    "TaskRow",
    "TasksResult",
    "TextNumbers",
    "TrainingRecord",
    "load_log",
]
