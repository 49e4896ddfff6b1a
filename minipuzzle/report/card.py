"""The model card: the report's facts as the README.md of the student's checkpoint, in Hugging Face's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minipuzzle.artifacts import read_json, write_atomic
from minipuzzle.report.facts import SOURCES, Facts, domain_rows, eval_rows, removed_rows, versions, why
from minipuzzle.report.units import count

COPIED = ("license", "license_name", "license_link", "language")
METRICS = {"loss": "Validation loss (nats a token)", "perplexity": "Perplexity", "bits_per_byte": "Bits per byte",
           "kl": "KL to the teacher (nats a token)", "agreement": "Greedy agreement with the teacher"}  # fmt: skip


def write_card(run: Path) -> Path:
    """Write run/student/README.md from what the run directory holds; without eval.json it has no numbers yet.

    Raises: UserError where the run or the student is missing.
    """
    from jinja2 import Environment, PackageLoader

    facts = Facts(run)
    student = run / "student"
    config = read_json(student / "config.json")
    environment = Environment(loader=PackageLoader("minipuzzle", "report"), trim_blocks=True, lstrip_blocks=True)
    winner, search = facts.winner, facts.search
    assert winner is not None
    assert search is not None
    text = environment.get_template("card.md.j2").render(
        header=_yaml(front_matter(facts, config)), parent=parent_name(facts), before=facts.pattern, after=winner["strip"],
        parameters=(count(search["parent"]["parameters"]), count(winner["parameters"])), why=why(facts),
        hidden=facts.hidden_change, removed=removed_rows(facts), distilled=facts.distilled,
        rows=eval_rows(facts.measured) if facts.measured else [],
        domains=domain_rows(facts.measured) if facts.measured else [],
        measured=facts.measured, text=Path(facts.measured["data"]).name if facts.measured else "",
        remote="auto_map" in config, commands=facts.commands, versions=versions(), sources=SOURCES,
    )  # fmt: skip
    target = student / "README.md"
    write_atomic(target, text.encode())
    return target


def front_matter(facts: Facts, config: dict[str, Any]) -> dict[str, Any]:
    """The card's metadata. Licence and language are the parent's where its own card names them, left out otherwise."""
    parent = _front_matter_of(facts.parent / "README.md")
    tags = ["minipuzzle", "pruned", "distilled", str(config["model_type"])]
    header: dict[str, Any] = {"base_model": parent_name(facts), "library_name": "transformers"}
    header |= {key: parent[key] for key in COPIED if key in parent}
    header |= {"pipeline_tag": "text-generation", "tags": tags}
    if facts.measured is not None:
        last = facts.measured["rows"][-1]
        metrics = [{"type": key, "name": name, "value": round(last[key], 5)} for key, name in METRICS.items()]
        task = {"type": "text-generation", "name": "Text generation"}
        data = {"type": "text", "name": f"validation text: {Path(facts.measured['data']).name}"}
        header["metrics"] = ["perplexity"]
        header["model-index"] = [
            {"name": f"{facts.parent.name}, compressed", "results": [{"task": task, "dataset": data, "metrics": metrics}]}
        ]
    return header


def parent_name(facts: Facts) -> str:
    """The parent's name on the hub where its files tell it, its folder's name otherwise."""
    file = facts.parent / "config.json"
    known = str(read_json(file).get("_name_or_path", "")) if file.exists() else ""
    return known if known.count("/") == 1 and not known.startswith((".", "/")) else facts.parent.name


def _yaml(header: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(header, sort_keys=False, allow_unicode=True))


def _front_matter_of(card: Path) -> dict[str, Any]:
    import yaml

    if not card.is_file():
        return {}
    parts = card.read_text().split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}  # a parent's broken card says nothing; ours must not fail for it
    return found if isinstance(found, dict) else {}
