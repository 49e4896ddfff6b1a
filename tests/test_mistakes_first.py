"""A mistake is found before anything is cut, scored or trained."""

import shutil

import pytest
from helpers import TEXT, run
from searched_runs import SHORT


@pytest.fixture
def folder(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "run")


BAD = {
    "no such text": ("--data", "nothing.txt"),
    "no such text.": ("--validation", "nothing.txt"),
    "no checkpoint here": ("--teacher", "nothing"),
    "matches nothing": ("--adapter", "lora", "--target", "nothing"),
    "no such adapter": ("--adapter", "nothing"),
    "top-K": ("--teacher-logits", "answers", "--teacher-keep", "some"),
    "FP8 cannot run": ("--precision", "fp8"),
    "No block would": ("--precision", "fp8-emulated", "--bf16-ends", "9"),
    "FP8 cannot run here": ("--teacher-precision", "fp8"),
    "into replicas": ("--replicas", "2"),
    "shorter than a block": ("--length", "99999"),
    "not those of this run": ("--teacher-logits", "others", "--teacher-keep", "top-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_of_distill_is_found_before_anything_is_cut(
    what, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others").mkdir()
    (tmp_path / "others/about.json").write_text('{"teacher": "another"}')
    run("distill", "--run", folder, *SHORT, *BAD[what], code=2)
    assert what in capsys.readouterr().err
    assert not (folder / "candidates").exists()


RECIPE = """
checkpoint: {checkpoint}
device: cpu
data: {{train: {text}, calibration: {text}, validation: {text}, length: 64}}
score: {{samples: 8, block_samples: 4}}
search: {{budget: 96%, multiple: 8, candidates: 3, validation_blocks: 4, top: 1}}
distill: {{training: {{tokens: 1024, batch: 4}}}}
"""


SWAPS = {
    "no such text": ("train: {text}", "train: nothing.txt"),
    "no such text.": ("validation: {text}", "validation: nothing.txt"),
    "meets this budget": ("96%", "1%"),
    "must leave a block": ("samples: 8,", "samples: 8, iterative: 99,"),
    "no such adapter": ("{{training", "{{adapter: {{kind: nothing}}, training"),
    "FP8 cannot run": ("batch: 4", "batch: 4, precision: fp8"),
}


@pytest.mark.parametrize("what", SWAPS)
def test_a_mistake_in_a_recipe_is_found_before_anything_is_scored(
    what, searched, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE.replace(*SWAPS[what])
    assert recipe != RECIPE
    (tmp_path / "recipe.yaml").write_text(
        recipe.format(checkpoint=searched.parent / "ckpt", text=TEXT)
    )
    run("run", "recipe.yaml", "--run", "run", code=2)
    assert what in capsys.readouterr().err
    assert not list(tmp_path.glob("run/scores*"))
