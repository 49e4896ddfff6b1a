"""Stage pretrain: a hybrid trained from nothing with the same loop, written as an ordinary checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from minipuzzle import embedded, families
from minipuzzle.artifacts import fingerprint, write_json
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.distill import next_token, train
from minipuzzle.distill.parallel import shard, write_gathered
from minipuzzle.errors import UserError
from minipuzzle.evaluate import measure
from minipuzzle.kernels import choose
from minipuzzle.model import HybridLM, init_model
from minipuzzle.progress import progress_bar
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.recipe import EMBEDDED, PretrainRecipe
from minipuzzle.rundir import RunDir
from minipuzzle.stages.device import device_name, pick_device
from minipuzzle.stages.meter import Meter
from minipuzzle.stages.texts import say, text_path


def run_pretrain(recipe: PretrainRecipe, run: RunDir) -> Checkpoint:
    """Train the recipe's model on its text in FP32 master weights and write run/model in BF16, with its tokenizer.

    Beside it, ``training.json`` keeps the recipe, the machine, the wall time and the losses.
    """
    with run.locked(), ranks(pick_device(recipe.device)) as group:
        return _pretrain(recipe, run, group)


def _pretrain(recipe: PretrainRecipe, run: RunDir, group: Ranks) -> Checkpoint:
    device = group.device
    family = families.find(str(recipe.model.get("model_type", "")))
    architecture = family.architecture(recipe.model)
    folder = embedded.teacher_path() if recipe.tokenizer == EMBEDDED else Path(recipe.tokenizer)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > architecture.vocab_size:
        raise UserError(
            "The tokenizer has another vocabulary than the model.", got=f"{tokenizer.vocab_size:,} words",
            allowed=f"at most the model's {architecture.vocab_size:,}", next="Set model.vocab_size or another tokenizer.",
        )  # fmt: skip
    train_path = text_path("train", recipe.data.train, tokenizer)
    validation_path = text_path("validation", recipe.data.validation, tokenizer)
    blocks = group.first_then_all(lambda: load_blocks(
        train_path, tokenizer, block_length=recipe.data.length, seed=recipe.data.seed, cache=run / "tokens"
    ))  # fmt: skip
    kernels = choose(device)
    say(f"pretrain: {architecture.parameters:,} parameters, {blocks.tokens.size:,} tokens of text; "
        f"kernels: {kernels.name} ({kernels.reason})")  # fmt: skip
    where = device if group.world == 1 else torch.device("cpu")  # shards move to their devices block by block
    model = init_model(architecture, seed=recipe.training.seed, device=where, kernels=kernels)
    if group.world > 1:
        shard(model, group, recipe.training.replicas)
    identity = fingerprint(recipe.model, recipe.training.fixed())
    meter = Meter("loss", architecture, recipe.data.length, device, ranks=group.world)
    with progress_bar("pretrain", recipe.training.tokens, "tokens") as bar:

        def advance(tokens: int, loss: float) -> None:
            bar.update(min(tokens, recipe.training.tokens), meter.note(tokens, loss))

        final = train(model, next_token, blocks, recipe.training, run / "pretrain", identity=identity,
                      advance=advance, say=say, ranks=group)  # fmt: skip
    target = run / "model"
    config = family.config(architecture, {**recipe.model, "torch_dtype": "bfloat16", "dtype": "bfloat16"})

    def write(tensor: Callable[[str], torch.Tensor]) -> None:
        write_checkpoint(target, architecture, lambda name: tensor(name).bfloat16().contiguous(), source=None,
                         config=config, extra=family.extra_files(architecture))  # fmt: skip
        tokenizer.copy_to(target)

    write_gathered(model, group, write)
    validation = _validation(recipe, validation_path, tokenizer, model, run)
    facts = {
        "recipe": asdict(recipe), "device": device_name(device), "torch": torch.__version__, "kernels": kernels.name,
        "seconds": _seconds(run / "pretrain" / "log.csv"), "tokens": recipe.training.tokens,
        "unique_tokens": int(blocks.tokens.size), "train_loss": final,
        "validation": validation,
    }  # fmt: skip
    if run.writes:
        write_json(target / "training.json", facts)
    return Checkpoint.open(target)


def _validation(
    recipe: PretrainRecipe, path: Path, tokenizer: Tokenizer, model: HybridLM, run: RunDir
) -> dict[str, float]:  # fmt: skip
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    result = {}
    for file in files:
        blocks = load_blocks(file, tokenizer, block_length=recipe.data.length, cache=run / "tokens")
        metrics = measure(model, blocks)
        result[file.name] = metrics.loss
        per_byte = metrics.bits_per_byte(blocks.text_bytes / blocks.tokens.size)
        say(f"pretrain: {file.name}: {metrics.loss:.4f} nats/token, {per_byte:.4f} bits/byte")
        result[f"{file.name} bits per byte"] = per_byte
    return result


def _seconds(log: Path) -> float:
    *_, last = csv.DictReader(log.read_text().splitlines())
    return float(last["seconds"])
