"""What a person may set: frozen dataclasses that check themselves when they are made.

Each field carries its default, unit, bounds and help (``declare``). The command line
(``commands._line``), the schema of recipes (``recipe_file``), the defaults of the API and the
option tables of the docs (``tables``) are made from them; ``verbs`` lists the commands. No torch.
"""

from minipuzzle.settings.adapt import AdaptSettings
from minipuzzle.settings.adapter import AdapterSettings
from minipuzzle.settings.budget import Budget, Limits, TimeLimit, parse_budget
from minipuzzle.settings.counts import MOST, parse_count
from minipuzzle.settings.data import EMBEDDED, Data
from minipuzzle.settings.distill import ADAPTER_RATES, RATES, DistillSettings, Winner
from minipuzzle.settings.generate import Sampling
from minipuzzle.settings.losses import DEFAULT_LOSS, loss_terms
from minipuzzle.settings.recipe import PretrainRecipe, Recipe
from minipuzzle.settings.score import ScoreSettings
from minipuzzle.settings.search import Domains, Method, Ranking, SearchSettings
from minipuzzle.settings.training import ADAPT_RATE, RATE, Precision, Training
from minipuzzle.settings.workload import Generation, Phase, check_tokens, parse_work

__all__ = [
    "ADAPTER_RATES",
    "ADAPT_RATE",
    "DEFAULT_LOSS",
    "EMBEDDED",
    "MOST",
    "RATE",
    "RATES",
    "AdaptSettings",
    "AdapterSettings",
    "Budget",
    "Data",
    "DistillSettings",
    "Domains",
    "Generation",
    "Limits",
    "Method",
    "Phase",
    "Precision",
    "PretrainRecipe",
    "Ranking",
    "Recipe",
    "Sampling",
    "ScoreSettings",
    "SearchSettings",
    "TimeLimit",
    "Training",
    "Winner",
    "check_tokens",
    "loss_terms",
    "parse_budget",
    "parse_count",
    "parse_work",
]
