"""What score, search, prune and pretrain have done is kept."""

import shutil

import pytest
from helpers import FAST, TEXT, run
from searched_runs import Died

from minipuzzle.artifacts import read_json
from minipuzzle.identity import fingerprint
from minipuzzle.records import Pruned, Searched
from minipuzzle.rundir import RunDir
from minipuzzle.runs import prune as prune_stage
from minipuzzle.runs.parent import MaskedParent


@pytest.fixture
def folder(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "run")


def test_prune_keeps_what_it_had_cut_and_never_another_searchs(folder, monkeypatch, capsys):
    real, cut = prune_stage.verify_logits, []

    def counted(parent, saved, *rest):
        cut.append(saved.path.name)
        if len(cut) == 3:
            raise Died
        return real(parent, saved, *rest)

    monkeypatch.setattr(prune_stage, "verify_logits", counted)
    with pytest.raises(Died):
        run("prune", "--run", folder)
    run("prune", "--run", folder)
    top = read_json(folder / "search.json")["top"]
    assert cut == [*top[:3], *top[2:]]
    assert set(RunDir(folder).stage(Pruned).logit_error) == set(top)
    assert not (folder / "prune.partial.json").exists()
    before = shutil.copytree(folder, folder.with_name("before"))
    run("search", "--run", folder, *FAST["search"], "--method", "solver", "--refine", 3, "--top", 5)
    cut.clear()
    with pytest.raises(Died):
        run("prune", "--run", folder)
    for name in ("search.json", "scores.safetensors"):
        shutil.copy(before / name, folder / name)
    RunDir(folder).mark(Searched(key=RunDir(before).key("search")))  # as the first search again
    capsys.readouterr()
    cut[:] = [""] * 9
    run("prune", "--run", folder)
    assert "nothing changed" not in capsys.readouterr().err, "some of them are the other search's"
    assert cut[9:] == top


def test_what_follows_a_mark_is_done_again(folder, monkeypatch):
    """score and search: a kill between mark and the removal of what they could have gone on
    from.
    """
    for name, stage in (("score", "scores.partial"), ("search", "search.partial")):
        key = RunDir(folder).key(name)
        place = folder / stage / (key if name == "score" else f"{fingerprint(key, 'fp32')}.json")
        place.parent.mkdir()
        place.mkdir() if name == "score" else place.write_text('{"key": "x", "results": {}}')
    run("score", folder.parent / "x", "--run", folder, code=2)
    run("score", "--run", folder, "--data", TEXT, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--method", "solver", "--refine", 2, "--top", 5)
    assert not list(folder.glob("*.partial"))


def test_an_interrupted_search_keeps_all_that_it_had_measured(checkpoint, tmp_path, monkeypatch):
    """Only the first one of them was on disk, and a killed search measured the others again."""
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, *FAST["score"], "--no-curves")
    measure, calls = MaskedParent.__call__, []

    def counted(self, selections):
        calls.append(selections)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, selections)

    monkeypatch.setattr("minipuzzle.nas.rank.TOGETHER", 1)
    monkeypatch.setattr(MaskedParent, "__call__", counted)
    run("search", "--run", folder, *FAST["search"], code=130)
    (partial,) = (folder / "search.partial").glob("*.json")
    assert len(read_json(partial)["results"]) == 3
    run("search", "--run", folder, *FAST["search"])
    candidates = read_json(folder / "search.json")["candidates"]
    assert len(calls) == 4 + len(candidates) - 3
    assert not partial.exists()


def test_pretrain_opens_its_validation_text_first_keeps_what_is_done_and_drops_its_states(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    recipe = (
        "model: {model_type: nemotron_h, vocab_size: 4096, hidden_size: 16,"
        " hybrid_override_pattern: M-, intermediate_size: 32, num_attention_heads: 2,"
        " num_key_value_heads: 1, head_dim: 8, mamba_num_heads: 4, mamba_head_dim: 8, n_groups: 1,"
        f" ssm_state_size: 8, chunk_size: 16}}\ndata: {{length: 64, train: {TEXT}, validation:"
        " VALIDATION}\ntraining: {tokens: 1024, learning_rate: 3.0e-3, batch: 4, seed:"
        " 0}\ndevice: cpu\ntokenizer: embedded\n"
    )
    (tmp_path / "bad.yaml").write_text(recipe.replace("VALIDATION", "nothing.txt"))
    run("pretrain", "bad.yaml", "--run", "run", code=2)
    assert "There is no such text." in capsys.readouterr().err
    assert not (tmp_path / "run/pretrain").exists(), "found after the training"
    (tmp_path / "good.yaml").write_text(recipe.replace("VALIDATION", str(TEXT)))
    run("pretrain", "good.yaml", "--run", "run")
    before = (tmp_path / "run/model/model.safetensors").read_bytes()
    assert sorted(path.name for path in (tmp_path / "run/pretrain").iterdir()) == [
        "identity.json",
        "log.csv",
    ]
    capsys.readouterr()
    run("pretrain", "good.yaml", "--run", "run")
    assert "nothing changed" in capsys.readouterr().err
    (tmp_path / "good.yaml").write_text(
        recipe.replace("VALIDATION", str(TEXT)).replace("seed: 0", "seed: 1")
    )
    run("pretrain", "good.yaml", "--run", "run")
    (aside,) = (tmp_path / "run").glob("model.before-*")
    assert (
        (aside / "model.safetensors").read_bytes()
        == before
        != (tmp_path / "run/model/model.safetensors").read_bytes()
    )
    assert len(list((tmp_path / "run").glob("pretrain.before-*/log.csv"))) == 1
