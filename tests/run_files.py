"""A good file of each kind that a run directory has, and what damages one."""

from minipuzzle.cost.latency import LatencyTable
from minipuzzle.records import (
    CommandLog,
    EvalResult,
    LegRecord,
    PartialPrune,
    PartialSearch,
    RunRecord,
    SearchResult,
    TasksResult,
    TrainingRecord,
)

CANDIDATE = {
    "name": "c001",
    "origin": "grid",
    "shape": {"mlp": 1, "hidden": 8},
    "pattern": "M",
    "strip": "M.",
    "parameters": 10,
    "bytes": 20,
    "damage": 0.5,
    "next_token_accuracy": 0.1,
    "agreement": 0.2,
    "loss": 3.0,
    "kl": 0.1,
    "rank": 1,
}
ROW = {
    "name": "teacher",
    "path": "p",
    "parameters": 10,
    "bytes": 20,
    "memory_bytes": 30,
    "loss": 3.0,
    "perplexity": 20.0,
    "bits_per_byte": 1.0,
    "kl": 0.0,
    "agreement": 1.0,
    "next_token_accuracy": 0.5,
    "tokens_per_second": 9.0,
    "tokens": 5,
}
NUMBERS = (
    "loss",
    "perplexity",
    "bits_per_byte",
    "kl",
    "agreement",
    "next_token_accuracy",
    "tokens",
)
ROW["domains"] = {"prose": {key: ROW[key] for key in (*NUMBERS, "next_token_accuracy")}}
GOOD = {
    "run.json": (
        RunRecord.load,
        {
            "schema": 3,
            "parent": {"path": "/a", "fingerprint": "f"},
            "original": {"path": "/b", "fingerprint": "g", "parameters": 12, "pattern": "M-"},
            "steps": [
                {
                    "number": 1,
                    "key": "k",
                    "folder": "steps/1",
                    "distill": "k",
                    "budget": "90%",
                    "pattern": "M.",
                    "parameters": 10,
                    "tokens": 5,
                    "loss": [3.0, 4.0, 3.1],
                    "kl": [0.0, 0.5, 0.1],
                }
            ],
            "stages": {
                "score": {"key": "k", "finished": "now"},
                "search": {"key": "s"},
                "distill": {
                    "key": "k",
                    "search": "s",
                    "winner": "c001",
                    "short_validation_loss": {"c001": 3.0},
                    "final_kl": 0.1,
                    "long_validation_loss": [3.0, 2.0],
                    "tokens": 5,
                    "short_tokens": 0,
                    "learning_rate": 1e-3,
                },
                "adapt": {"key": "k", "final_loss": 1.0, "tokens": 5, "trained": 5, "lora": 6},
            },
        },
    ),
    "commands.json": (
        CommandLog.load,
        {"schema": 1, "commands": [{"command": "minipuzzle score", "seconds": 1.5, "date": "d"}]},
    ),
    "search.json": (
        SearchResult.load,
        {
            "schema": 2,
            "method": "solver",
            "parent": {"path": "/a", "fingerprint": "f", "parameters": 20, "pattern": "M-"},
            "budget": {
                "text": ["83%"],
                "parameters": 10,
                "bytes": None,
                "times": {"decode ms @b1,p8,o1": 1.5},
                "timing": "t",
                "margin": None,
                "workload": {
                    "context": 8,
                    "batch": 1,
                    "weights": "bf16",
                    "kv": "bf16",
                    "state": "bf16",
                },
            },
            "bounds": {"hidden": [8], "paired": False},
            "not_pruned": [],
            "parent_cost": {"parameters": 10, "bytes": 20, "times": {}},
            "points": 2,
            "feasible": 1,
            "candidates": [CANDIDATE],
            "top": ["c001"],
            "funnel": [{"stage": "s", "entered": 2, "left": 1, "seconds": 0.1}],
            "selections": {"c001": {"blocks": [{"heads": [0, 2]}, None], "hidden": [0, 1]}},
            "front": {
                "names": ["parameters"],
                "points": [{"limit": [1.0], "cost": [1.0], "damage": 0.1, "gap": 0.0}],
            },
        },
    ),
    "search.partial.json": (
        PartialSearch.load,
        {"key": "k", "results": {"c001": [0.1, 0.2, 3.0, 0.1]}},
    ),
    "prune.partial.json": (PartialPrune.load, {"schema": 1, "key": "k", "errors": {"c001": 1e-6}}),
    "identity.json": (
        TrainingRecord.load,
        {"schema": 1, "identity": "i", "key": "k", "finished": True, "replaced": False},
    ),
    "result.json": (LegRecord.load, {"schema": 1, "validation_loss": 3.0, "tasks": 0.5}),
    "eval.json": (
        EvalResult.load,
        {
            "schema": 1,
            "device": "CPU",
            "data": "text.txt",
            "tokens": 5,
            "distill": None,
            "rows": [ROW, ROW],
            "costs": [{"what": "w", "unit": "ms", "predicted": 1.0, "measured": 2.0}],
        },
    ),
    "tasks.json": (
        TasksResult.load,
        {
            "schema": 1,
            "device": "CPU",
            "limit": 5,
            "include": None,
            "rows": [
                {
                    "name": "teacher",
                    "path": "p",
                    "task": "arc",
                    "metric": "acc",
                    "value": 0.5,
                    "stderr": None,
                    "higher_is_better": True,
                    "samples": 5,
                }
            ],
        },
    ),
    "latency.json": (
        LatencyTable.load,
        {
            "schema": 1,
            "device": "CPU",
            "dtype": "float32",
            "date": "d",
            "additivity": [{"error": 0.1}],
            "entries": [
                {
                    "phase": "decode",
                    "batch": 1,
                    "tokens": 8,
                    "ms": 1.5,
                    "block": '{"kind": "mlp", "intermediate": 8}',
                }
            ],
        },
    ),
}


def four(caught, *words):
    said = str(caught.value)
    assert all(part in said for part in ("\n  got: ", "\n  allowed: ", "\n  next: ", *words)), said
