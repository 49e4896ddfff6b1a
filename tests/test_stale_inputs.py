"""What a stage kept is taken only for inputs with the same content: a file changed in place is
another input.
"""

import json

from helpers import FAST, TEXT, run
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from minipuzzle.cost.latency import LatencyTable

DISTILL = (
    "--data",
    TEXT,
    "--validation",
    TEXT,
    "--tokens",
    512,
    "--length",
    64,
    "--batch",
    4,
    "--device",
    "cpu",
    "--learning-rate",
    "5e-4",
)


def reversed_scores(folder):
    file = folder / "scores.safetensors"
    with safe_open(file, framework="np") as opened:
        about = opened.metadata()
    values = load_arrays(file)
    save_arrays({n: v[::-1].copy() if n == "blocks" else v for n, v in values.items()}, file, about)


def other_weights(folder):
    (name,) = json.loads((folder / "search.json").read_text())["top"]
    file = folder / "candidates" / name / "model.safetensors"
    values = load_file(file)
    values["backbone.embeddings.weight"][-1] *= -3.0
    save_file(values, file, metadata={"format": "pt"})


def other_channels(folder):
    """Keep other heads or channels of a block, as many as before."""
    file = folder / "search.json"
    found = json.loads(file.read_text())
    (kept,) = found["selections"].values()
    axis, chosen = next((a, of) for block in kept["blocks"] if block for a, of in block.items())
    spare = next(i for i in range(max(chosen) + 1) if i not in chosen)
    chosen[:] = sorted([spare, *chosen[1:]] if chosen[0] < spare else [spare, *chosen[:-1]])
    file.write_text(json.dumps(found))
    return axis


def table(ms):
    meta = {"device": "it", "dtype": "bf16", "date": "today"}
    return lambda *_: LatencyTable(meta=meta, entries={("decode", 1, 8, "top"): ms})


def test_inputs_that_changed_in_place_are_other_inputs(checkpoint, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "run"
    search = ("search", "--run", folder, *FAST["search"], "--top", 1)
    distill = ("distill", "--run", folder, *DISTILL)

    def kept(*words):
        capfd.readouterr()
        run(*words)
        return f"{words[0]}: nothing changed" in capfd.readouterr().err

    run("score", checkpoint, "--run", folder, *FAST["score"])
    run(*search)
    assert kept(*search)
    reversed_scores(folder)
    assert not kept(*search)
    for ms in (1.0, 2.0):  # measured again on the same day
        monkeypatch.setattr("minipuzzle.runs.search.load_timing", table(ms))
        assert not kept(*search)
        assert kept(*search)
    run(*distill)
    assert kept(*distill)
    other_weights(folder)
    assert not kept(*distill)
    prune = ("prune", "--run", folder, "--device", "cpu")
    assert kept(*prune)
    assert other_channels(folder)
    assert not kept(*prune)
