"""The model card: the report's facts as the README.md of the student's checkpoint, in Hugging
Face's form.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypedDict

from minipuzzle.artifacts import read_json, write_atomic
from minipuzzle.checked import Must, fault
from minipuzzle.report.escape import markdown, published
from minipuzzle.report.evaluated import domain_rows, eval_rows
from minipuzzle.report.facts import SOURCES, Facts, versions
from minipuzzle.report.pattern import legend
from minipuzzle.report.selected import removed_rows, why
from minipuzzle.report.steps import step_rows
from minipuzzle.units import count

COPIED = ("license", "license_name", "license_link", "language")
LONGEST_HEADER = 1 << 16
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""A name of the Hugging Face hub."""
_Line = Annotated[str, Must(lambda text: len(text) <= 200 and text.isprintable(), "a short line")]
_COPIED = _Line | list[_Line]
METRICS = {
    "loss": "Validation loss (nats a token)",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
    "kl": "KL to the teacher (nats a token)",
    "agreement": "Greedy agreement with the teacher",
}


class _Config(TypedDict):
    model_type: str


def write_card(run: Path) -> Path:
    """Write run/student/README.md from what the run directory holds; without eval.json it has no
    numbers yet.

    Raises: UserError where the run or the student is missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    facts = Facts(run)
    student = run / "student"
    config = read_json(student / "config.json", _Config, next="Run minipuzzle distill again.")
    environment = Environment(
        loader=PackageLoader("minipuzzle", "report"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    winner, search = facts.winner, facts.search
    assert winner is not None
    assert search is not None
    first = facts.record.original or search.parent
    text = environment.get_template("card.md.j2").render(
        header=_yaml(front_matter(facts, config)),
        before=facts.pattern,
        legend=legend(facts.pattern),
        after=winner.strip,
        parameters=(count(first.parameters), count(winner.parameters)),
        active=None if first.active is None else (count(first.active), count(winner.active or 0)),
        hidden=facts.hidden_change,
        distilled=facts.distilled,
        remote="auto_map" in config,
        commands=[line for row in facts.commands if (line := published(row.command))],
        sources=SOURCES,
        **markdown(_said(facts)),
    )
    target = student / "README.md"
    write_atomic(target, text.encode())
    return target


def _said(facts: Facts) -> dict[str, Any]:
    """What holds names that others chose: to be escaped."""
    measured = facts.measured
    return {
        "parent": parent_name(facts),
        "why": why(facts),
        "removed": removed_rows(facts),
        "steps": step_rows(facts),
        "rows": eval_rows(measured) if measured else [],
        "domains": domain_rows(measured) if measured else [],
        "versions": versions(),
        "measured": {"tokens": measured.tokens, "device": measured.device} if measured else None,
        "text": Path(measured.data).name if measured else "",
    }


def front_matter(facts: Facts, config: dict[str, Any]) -> dict[str, Any]:
    """The card's metadata. Licence and language are the parent's where its own card names them,
    left out otherwise.
    """
    parent = _front_matter_of(facts.original / "README.md")
    tags = ["minipuzzle", "pruned", "distilled", config["model_type"]]
    header: dict[str, Any] = {"base_model": parent_name(facts), "library_name": "transformers"}
    header |= {key: parent[key] for key in COPIED if fault(parent.get(key), _COPIED) is None}
    header |= {"pipeline_tag": "text-generation", "tags": tags}
    if facts.measured is not None:
        last = facts.measured.rows[-1]
        metrics = [
            {"type": key, "name": name, "value": round(getattr(last, key), 5)}
            for key, name in METRICS.items()
        ]
        task = {"type": "text-generation", "name": "Text generation"}
        data = {"type": "text", "name": f"validation text: {Path(facts.measured.data).name}"}
        header["metrics"] = ["perplexity"]
        header["model-index"] = [
            {
                "name": f"{facts.original.name}, compressed",
                "results": [{"task": task, "dataset": data, "metrics": metrics}],
            }
        ]
    return header


def parent_name(facts: Facts) -> str:
    """The original's name on the hub where its files tell it, its folder's name otherwise."""
    file = facts.original / "config.json"
    known = read_json(file, dict[str, Any]).get("_name_or_path") if file.exists() else ""
    return known if isinstance(known, str) and _HUB.fullmatch(known) else facts.original.name


def _yaml(header: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(header, sort_keys=False, allow_unicode=True))


def _front_matter_of(card: Path) -> dict[str, Any]:
    import yaml

    # A parent's broken card says nothing; ours must not fail for it.
    try:
        if not card.is_file():
            return {}
        with card.open("rb") as file:
            parts = file.read(LONGEST_HEADER).decode(errors="replace").split("---", 2)
        found = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    except (OSError, yaml.YAMLError, ValueError, RecursionError):  # ValueError: the 31st of June
        return {}
    return found if isinstance(found, dict) else {}
