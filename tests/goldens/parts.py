"""What is run for each part: the command line wherever there is one.

Each part begins in an empty folder, to which paths are relative.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import files, readers
from .readers import answer, command
from .values import Line, numbers

TEXT, RUN = Path("texts"), Path("run")
HERE = "--device cpu --run run"
SHORT = f"--data texts --length 32 {HERE}"
FEW_SAMPLES = "--samples 4 --block-samples 2"
FEW = "--candidates 4 --validation-blocks 2"
ESTIMATORS = ("mixed", "minitron", "minitron-pre", "flap", "contribution", "magnitude", "random")
METRICS = ("logit-mse", "kl", "loss")
FORMS = json.loads((Path(__file__).parent / "forms.json").read_text())
VOCABULARY = 4096
# Families whose blocks and gates differ most: their scores are kept block by block, of the others
# a hash tells whether any differs.
SHOWN = ("nemotron_h: plain", "llama: plain", "granitemoehybrid: multipliers")
BIASED, MULTIPLIED = "llama: linear, biases, own head_dim", "granitemoehybrid: multipliers"


def demo() -> Iterator[Line]:
    """The embedded demo in small: score, a grid, prune, two steps of distilling, eval, report."""
    files.write_texts(TEXT)
    score = f"score embedded {SHORT} --samples 8 --block-samples 4"
    yield from readers.facts("score --json", answer(score))
    yield from readers.scores("score", RUN)
    yield from numbers("score, printed", command(score), "scores:")
    search = f"search {SHORT} --budget 83% --candidates 6 --top 2 --validation-blocks 4"
    yield from readers.search("search --json", answer(search))
    yield from numbers("search, printed", command(search), "search:")
    yield from readers.facts("prune --json", answer(f"prune {HERE}"))
    yield from files.tensors("cut c001", RUN / "candidates" / "c001")
    yield from files.all_tensors("cut c002", RUN / "candidates" / "c002")
    training = "--validation texts --batch 4 --tokens 256 --short-tokens 128"
    distill = answer(f"distill {SHORT} {training} --learning-rate 5e-4,1e-3")
    yield from readers.facts("distill --json", distill)
    yield from files.tensors("student", RUN / "student")
    yield from readers.evaluation("eval --json", answer(f"eval {SHORT}"))
    command("report --run run")
    yield from files.report_numbers("report", RUN)
    yield from files.run_keys("identity of the run", RUN)


def axes() -> Iterator[Line]:
    """Searches over several axes: the grid, the integer program, budgets of memory and of time."""
    files.write_texts(TEXT)
    answer(f"score embedded {SHORT} {FEW_SAMPLES}")
    yield from readers.scores_briefly("score", RUN)
    for name, options in {
        "grid": "--budget 70% --mamba-heads --hidden-size --min-keep hidden=75% --top 2",
        "solver": "--method solver --refine 6 --top 2 --mamba-heads --per-block-heads --kv-heads"
        " --budget 80% --budget 14MiB",
    }.items():
        found = answer(f"search {SHORT} {FEW} --multiple 128 {options}")
        yield from readers.search(name, found)
        answer(f"prune {HERE}")
        for cut in readers.kept(found):
            yield from files.logits(f"{name} / cut {cut} / logits", RUN / "candidates" / cut)
    hidden = "--method solver --refine 2 --uniform --hidden-size --top 1 --budget 75%"
    found = answer(f"search {SHORT} {FEW} --multiple 128 {hidden}")
    yield from readers.search("solver, hidden size", found)
    timed = "--budget 1.2x --prompt 512 --output 64 --roofline h100 --top 1"
    found = answer(f"search {SHORT} {FEW} --multiple 128 {timed}")
    yield from readers.search("time by roofline", found)


def estimators() -> Iterator[Line]:
    """Each estimator and metric on the embedded teacher, estimators also on other blocks."""
    files.write_texts(TEXT)
    score = f"score embedded {SHORT} {FEW_SAMPLES}"
    for name in ESTIMATORS:
        command(f"{score} --no-curves --estimator {name}")
        yield from readers.scores(f"embedded / {name}", RUN)
    for metric in METRICS:
        command(f"{score} --metric {metric}")
        yield from readers.scores_briefly(f"embedded / {metric}", RUN)
    command(f"{score} --no-curves --iterative 3")
    yield from readers.scores_briefly("embedded / three removed one by one", RUN)
    yield from readers.taylor("embedded / taylor", files.TEACHER, TEXT, 32, 4, RUN)
    for folder, form in {"llama": BIASED, "granite": MULTIPLIED}.items():
        files.write_form(Path(folder), FORMS[form]["config"])
        run = Path(f"run-{folder}")
        score = f"score {folder} --data texts --length 32 --device cpu --run {run} {FEW_SAMPLES}"
        for name in ESTIMATORS:
            command(f"{score} --no-curves --estimator {name}")
            yield from readers.scores_briefly(f"{form} / {name}", run)
        yield from readers.taylor(f"{form} / taylor", Path(folder), TEXT, 32, 4, run)


def adapters() -> Iterator[Line]:
    """Two steps of each kind of adapter, merged; export; what a model says; one from nothing."""
    files.write_texts(TEXT)
    adapt = "adapt embedded --data texts --length 32 --device cpu --tokens 256 --batch 4"
    kinds = {
        "tl6": "",
        "lora": "--target qkv --few",
        "tied:A,u,v": "--target mamba",
        "vera": "--target up,down",
    }
    for number, (kind, more) in enumerate(kinds.items()):
        adapter = f"run-{number}/adapter/adapter.safetensors"
        trained = answer(f"{adapt} --run run-{number} --adapter {kind} {more}")
        yield from readers.facts(f"adapt {kind} --json", trained)
        yield from files.all_tensors(f"adapt {kind} / adapter", Path(adapter))
        merged = answer(f"merge '{files.TEACHER}' {adapter} --out merged-{number}")
        yield from readers.facts(f"merge {kind} --json", merged)
        yield from files.all_tensors(f"merge {kind} / checkpoint", Path(f"merged-{number}"))
    lora = "run-1/adapter/adapter.safetensors"
    merged = answer(f"merge '{files.TEACHER}' {lora} --out peft --export peft")
    yield from readers.facts("merge lora --export peft --json", merged)
    yield from files.all_tensors("merge lora --export peft / adapter", Path("peft"))
    trained = answer(f"{adapt} --run taught --teacher merged-0 --adapter lora --rank 4")
    yield from readers.facts("adapt to a teacher --json", trained)
    taught = Path("taught/adapter/adapter.safetensors")
    yield from files.all_tensors("adapt to a teacher / adapter", taught)
    yield from readers.engines("export --json", answer(f"export '{files.TEACHER}'"))
    for dtype in ("auto", "q8_0"):
        written = answer(f"export merged-0 --gguf {dtype}.gguf --dtype {dtype}")
        yield from readers.facts(f"export --gguf {dtype} --json", written)
        yield from files.gguf(f"export --gguf {dtype}", Path(f"{dtype}.gguf"))
    speak = f"generate '{files.TEACHER}' 'Fellow citizens' --tokens 24 --device cpu"
    yield "generate", json.dumps(command(speak))
    drawn = command(f"{speak} --temperature 0.8 --top-p 0.9 --seed 3")
    yield "generate, drawn", json.dumps(drawn)
    config = FORMS["nemotron_h: plain"]["config"]
    files.write_pretrain_recipe(Path("recipe.yaml"), config, TEXT)
    command("pretrain recipe.yaml --run pretrained")
    yield from files.tensors("pretrain", Path("pretrained/model"))


def families() -> Iterator[Line]:
    """Each form of each family: logits, scores, and a cut along every axis that its files allow.

    The first form of each family is also searched and cut by what was found.
    """
    files.write_texts(TEXT)
    searched = set()
    for number, (form, about) in enumerate(FORMS.items()):
        folder, run, cut = Path(f"form-{number}"), Path(f"run-{number}"), Path(f"cut-{number}")
        files.write_form(folder, about["config"])
        yield from files.logits(f"{form} / logits", folder)
        here = f"--device cpu --run {run}"
        command(f"score {folder} --data texts --length 32 {here} {FEW_SAMPLES}")
        scores = readers.scores if form in SHOWN else readers.scores_briefly
        yield from scores(f"{form} / score", run)
        family = about["config"]["model_type"]
        if family not in searched:
            yield from _searched(form, about["config"], folder, run)
            searched.add(family)
        files.cut(folder, about["cut"], cut)
        yield from files.all_tensors(f"{form} / cut along all axes / tensors", cut)
        yield from files.logits(f"{form} / cut along all axes / logits", cut)
        yield from readers.engines(f"{form} / export", answer(f"export {folder}"))


def _searched(form: str, config: dict[str, Any], folder: Path, run: Path) -> Iterator[Line]:
    heads = 1 if config.get("tie_word_embeddings") else 2
    whole = readers.parameters(folder)
    # Three fifths of what is neither embedding nor head.
    budget = whole - (whole - heads * VOCABULARY * config["hidden_size"]) * 2 // 5
    here = f"--device cpu --run {run}"
    few = "--candidates 3 --top 1 --validation-blocks 2 --multiple 8"
    found = answer(f"search --data texts --length 32 {here} {few} --budget {budget}")
    yield from readers.search(f"{form} / search", found)
    yield f"{form} / prune", readers.row(answer(f"prune {here}"))
    cut = run / "candidates" / readers.kept(found)[0]
    yield from files.all_tensors(f"{form} / cut / tensors", cut)
    yield from files.logits(f"{form} / cut / logits", cut)


def plans() -> Iterator[Line]:
    """What follows from a config.json alone; memory and time on paper; what models are known by."""
    examples = {f.parent.name: f.parent for f in sorted(files.EXAMPLES.glob("*/config.json"))}
    for name, folder in {**examples, "embedded teacher": files.TEACHER}.items():
        inspect = f"inspect '{folder}'"
        yield f"inspect {name} --json", readers.row(answer(inspect))
        far = "--context 1M --batch 2 --weights fp4 --kv fp8 --state fp32"
        yield f"inspect {name} --json, far", readers.row(answer(f"{inspect} {far}"))
        yield from numbers(f"inspect {name}, printed", command(inspect), readers.TITLE)
    large, small = examples["nemotron-h-56b"], examples["nemotron-h-47b"]
    far = "--budget 31.7GiB --context 1M --weights fp4 --kv fp8 --state bf16"
    yield from readers.plan("search 56b", answer(f"search '{large}' {far}"))
    bounds = ("attention=100%", "others=100%", "width=46%", "hidden=75%")
    kept = " ".join(f"--min-keep {bound}" for bound in bounds)
    exact = f"--budget 4489223040 --multiple 768 --mamba-heads --hidden-size {kept}"
    found = answer(f"search '{examples['nemotron-h-8b']}' {exact}")
    yield from readers.plan("search 8b", found)
    for budget in ("1.3x@b8,p8k,o1k", "decode=1.2x@b1,p512,o64"):
        timed = f"--budget {budget} --roofline h100 --multiple 512"
        found = answer(f"search '{examples['llama-3.1-8b']}' {timed}")
        yield from readers.plan(f"search llama {budget}", found)
    plan = f"distill --plan --teacher '{large}' --student '{small}' --tokens 63B --length 8192"
    yield from readers.distill_plan("distill --plan --json", answer(plan))
    planned = answer(f"bench '{large}' '{examples['llama-3.2-1b']}' --plan --prompt 64k")
    yield from readers.facts("bench --plan --json", planned)
    for name in ("nemotron_h", "llama"):
        files.write_form(Path(name), FORMS[f"{name}: plain"]["config"])
        yield files.identity(f"identity / {name}", Path(name))
    yield files.identity("identity / embedded teacher", files.TEACHER)
    short = "--prompt 8 --output 4 --seconds 0 --device cpu"
    yield from readers.bench("bench --json", answer(f"bench nemotron_h llama {short}"))
    yield from readers.profile("profile --json", Path("nemotron_h"), RUN)


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    part.__name__: part for part in (demo, axes, estimators, adapters, families, plans)
}
