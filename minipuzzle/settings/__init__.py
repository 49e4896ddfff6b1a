"""What a person may set: frozen dataclasses that check themselves when they are made. The command
line, recipes and the API fill the same ones. No torch.
"""

from minipuzzle.settings.adapter import AdapterSettings
from minipuzzle.settings.bounds import FASTEST, check
from minipuzzle.settings.budget import Budget, Limits, TimeLimit, parse_budget
from minipuzzle.settings.counts import MOST, parse_count
from minipuzzle.settings.data import EMBEDDED, Data
from minipuzzle.settings.distill import ADAPTER_RATES, RATES, DistillSettings, Winner
from minipuzzle.settings.losses import DEFAULT_LOSS, loss_terms
from minipuzzle.settings.recipe import PretrainRecipe, Recipe
from minipuzzle.settings.score import ScoreSettings
from minipuzzle.settings.search import Method, Ranking, SearchSettings
from minipuzzle.settings.training import ADAPT_RATE, RATE, Checkpointing, Precision, Training
from minipuzzle.settings.workload import Generation, Phase, check_tokens, parse_work

__all__ = [
    "ADAPTER_RATES",
    "ADAPT_RATE",
    "DEFAULT_LOSS",
    "EMBEDDED",
    "FASTEST",
    "MOST",
    "RATE",
    "RATES",
    "AdapterSettings",
    "Budget",
    "Checkpointing",
    "Data",
    "DistillSettings",
    "Generation",
    "Limits",
    "Method",
    "Phase",
    "Precision",
    "PretrainRecipe",
    "Ranking",
    "Recipe",
    "ScoreSettings",
    "SearchSettings",
    "TimeLimit",
    "Training",
    "Winner",
    "check",
    "check_tokens",
    "loss_terms",
    "parse_budget",
    "parse_count",
    "parse_work",
]
