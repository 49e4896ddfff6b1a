"""The hidden size through the commands."""

import json
from pathlib import Path

import torch
from conftest import VOCAB, tiny
from helpers import FAST, TEXT, run
from transformers import AutoModelForCausalLM

from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def test_from_a_hybrid_to_a_narrower_student(checkpoint, tmp_path, capsys):
    """Only the hidden size may shrink, so it must; transformers loads the student and says the
    same, masked or cut.
    """
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, "--data", TEXT, *FAST["score"])
    capsys.readouterr()
    run(
        "search",
        "--run",
        folder,
        "--data",
        TEXT,
        "--budget",
        "80%",
        "--hidden-size",
        "--min-keep",
        "attention=100%",
        "--min-keep",
        "others=100%",
        "--min-keep",
        "width=100%",
        "--min-keep",
        "hidden=25%",
        "--top",
        2,
        "--validation-blocks",
        2,
        "--length",
        64,
        "--device",
        "cpu",
    )
    shown = capsys.readouterr().out
    found = read_json(folder / "search.json")
    sizes = {row["name"]: row["shape"]["hidden"] for row in found["candidates"]}
    assert sorted(sizes.values()) == [8, 16, 24]
    assert [row["rank"] for row in found["candidates"]] == [1, 2, 3]
    assert all(f"hidden size {sizes[name]}" in shown for name in found["top"])
    assert all(
        row["parameters"] == tiny(hidden=sizes[row["name"]]).parameters
        for row in found["candidates"]
    )
    run("distill", "--run", folder, *FAST["distill"])
    run("eval", "--run", folder, *FAST["eval"])
    run("report", "--run", folder)
    student = Checkpoint.open(folder / "student")
    assert student.architecture.hidden in {sizes[name] for name in found["top"]}
    assert student.config["hidden_size"] == student.architecture.hidden
    assert max(read_json(folder / "run.json")["stages"]["prune"]["logit_error"].values()) < 1e-5
    rows = {row["what"]: row for row in read_json(folder / "eval.json")["costs"]}
    assert all(row["predicted"] == row["measured"] for row in rows.values())
    said = f"32 to {student.architecture.hidden} in every block"
    assert f"Hidden size {said}" in (folder / "report.html").read_text()
    assert f"hidden size {said}" in (folder / "student" / "README.md").read_text()
    theirs = AutoModelForCausalLM.from_pretrained(folder / "student").eval()
    for layer in theirs.model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = (0.0, float("inf"))
    tokens = torch.randint(0, VOCAB, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_model(student).eval()(tokens)
        assert (theirs(tokens, use_cache=False).logits - ours).abs().max() < 1e-4 * max(
            1.0, ours.abs().max()
        )
    run(
        "search",
        "--run",
        folder,
        "--data",
        TEXT,
        "--budget",
        "70%",
        "--hidden-size",
        "--min-keep",
        "hidden=50%",
        "--method",
        "solver",
        "--refine",
        3,
        "--candidates",
        6,
        "--validation-blocks",
        2,
        "--length",
        64,
        "--device",
        "cpu",
    )
    solved = [
        row for row in read_json(folder / "search.json")["candidates"] if row["origin"] == "solver"
    ]
    assert {row["shape"]["hidden"] for row in solved} == {
        16,
        24,
    }  # nothing fits at 32: the embedding alone is 262,144
    assert len({row["name"] for row in solved}) == len(solved)
    run("report", "--run", folder)  # the distilled winner is not among the new candidates


def test_a_config_alone_lists_hidden_sizes(capsys):
    run(
        "search",
        EXAMPLES / "nemotron-h-8b",
        "--budget",
        "4489223040",
        "--multiple",
        768,
        "--mamba-heads",
        "--hidden-size",
        "--min-keep",
        "attention=100%",
        "--min-keep",
        "others=100%",
        "--min-keep",
        "width=46%",
        "--json",
    )
    first = json.loads(capsys.readouterr().out)["maximal"][0]
    assert (first["intermediate"], first["heads"], first["hidden"], first["parameters"]) == (
        12288,
        112,
        3072,
        4_489_223_040,
    )
