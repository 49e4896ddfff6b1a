"""Stage pretrain: a hybrid trained from nothing with the same loop, written as an ordinary
checkpoint.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from minipuzzle import embedded, families
from minipuzzle.arch import Architecture
from minipuzzle.artifacts import write_json
from minipuzzle.bars import progress_bar
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.data.blend import epochs
from minipuzzle.data.files import data_files
from minipuzzle.errors import UserError
from minipuzzle.identity import fingerprint
from minipuzzle.interrupt import legs
from minipuzzle.kernels import choose
from minipuzzle.memory.optimizers import state_bytes_each
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM, init_model
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.records import Pretrained
from minipuzzle.rundir import RunDir
from minipuzzle.runs.checks import check_training
from minipuzzle.runs.device import device_name, pick_device
from minipuzzle.runs.disk import check_disk, training_needs
from minipuzzle.runs.meter import Meter
from minipuzzle.runs.texts import Part, load_text, text_parts
from minipuzzle.runs.training_folder import TrainingFolder
from minipuzzle.settings import PretrainRecipe
from minipuzzle.training import answers_only, next_token, train
from minipuzzle.training.expert_load import last_load
from minipuzzle.training.log import LOG
from minipuzzle.training.parallel import shard, write_gathered
from minipuzzle.training.trained import choose_trained, trained_count
from minipuzzle.units import sized

log = logging.getLogger(__name__)


def run_pretrain(recipe: PretrainRecipe, run: RunDir) -> Checkpoint:
    """Train the recipe's model on its text in FP32 master weights and write run/model in BF16, with
    its tokenizer.

    Beside it, ``training.json`` keeps the recipe, the machine, the wall time and the losses.
    """
    processes = ranks(pick_device(recipe.device), recipe.training.offload)
    with run.locked(), processes as group, legs(group):
        return _pretrain(recipe, run, group)


def _pretrain(recipe: PretrainRecipe, run: RunDir, group: Ranks) -> Checkpoint:
    device = group.device
    family = families.of(recipe.model)
    architecture = replace(family.architecture(recipe.model), mtp=())  # it would not be trained
    tokenizer = _tokenizer(recipe, architecture)
    texts = {
        which: text_parts(which, getattr(recipe.data, which), tokenizer, run / "tokens")
        for which in ("train", "validation")
    }
    blocks = group.first_then_all(
        lambda: load_text("train", texts["train"], tokenizer, recipe.data, run / "tokens")
    )
    held_out = group.first_then_all(
        lambda: _validation(recipe, texts["validation"], tokenizer, run)
    )
    check_training(recipe.training, recipe.data.length, [architecture], device, group)
    kernels = choose(device)
    inputs = (tokenizer.fingerprint, blocks.fingerprint)
    identity = fingerprint(recipe.model, recipe.training.fixed(), *inputs)
    key = fingerprint(
        recipe.model,
        recipe.training.decisive(),
        *inputs,
        [text.fingerprint for text in held_out.values()],
    )
    target, folder = run / "model", TrainingFolder(run, "pretrain", identity, key)
    if run.is_done("pretrain", key) and target.exists():
        log.info(f"pretrain: nothing changed, kept {target}")
        group.by_first(folder.finish)
        return Checkpoint.open(target)
    needs = training_needs(
        folder.path,
        trained_count(architecture, recipe.training.trains("all")),
        target,
        2 * architecture.parameters,
        averaged=recipe.training.average > 0,
        each=state_bytes_each(architecture, recipe.training.optimizer),
    )
    group.by_first(lambda: check_disk("pretrain", needs, device))
    size = sized(architecture.parameters, architecture.active_if_fewer)
    log.info(
        f"pretrain: {size}, {blocks.tokens.size:,} tokens of text; "
        f"kernels: {kernels.describe(architecture.blocks)}"
    )
    group.by_first(folder.claim)
    sharded = group.world > 1 or recipe.training.offload
    # shards move to their devices block by block
    where = torch.device("cpu") if sharded else device
    model = init_model(architecture, seed=recipe.training.seed, device=where, kernels=kernels)
    choose_trained(model, recipe.training.trains("all"))
    if sharded:
        shard(model, group, recipe.training, recipe.training.offload)
    tokens = recipe.training.tokens
    for line in epochs(blocks, tokens):
        log.info(f"pretrain: {line}")
    with progress_bar("pretrain", tokens, "tokens") as bar:
        lengths = ((recipe.data.length, 1.0),)
        meter = Meter(bar, tokens, architecture, lengths, device, ranks=group.world)
        final = train(
            model,
            answers_only() if blocks.spans else next_token,
            blocks,
            recipe.training,
            folder.path,
            identity=identity,
            progress=meter,
            ranks=group,
        )
    validation, load = _measured(model, held_out), last_load(folder.path / LOG)
    facts = {
        "recipe": asdict(recipe),
        "device": device_name(device),
        "torch": torch.__version__,
        "kernels": kernels.name,
        "seconds": _seconds(folder.path / LOG),
        "tokens": recipe.training.tokens,
        "unique_tokens": int(blocks.tokens.size),
        "train_loss": final,
        "validation": validation,
    }
    if load:
        facts["expert_load"] = {block: asdict(found) for block, found in load.items()}
    config = family.config(
        architecture, {**recipe.model, "torch_dtype": "bfloat16", "dtype": "bfloat16"}
    )

    def write(tensor: Callable[[str], torch.Tensor]) -> None:
        folder.replace(target)
        write_checkpoint(
            target,
            architecture,
            lambda name: tensor(name).bfloat16().contiguous(),
            source=None,
            config=config,
            extra=family.extra_files(architecture),
        )
        tokenizer.copy_to(target)
        write_json(target / "training.json", facts)

    write_gathered(model, group, write)
    run.mark(Pretrained(key=key, validation=validation, expert_load=load))
    group.by_first(folder.finish)
    return Checkpoint.open(target)


def _tokenizer(recipe: PretrainRecipe, architecture: Architecture) -> Tokenizer:
    folder = embedded.checkpoint_path(Path(recipe.tokenizer))
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > architecture.vocab_size:
        raise UserError(
            "The tokenizer has another vocabulary than the model.",
            got=f"{tokenizer.vocab_size:,} words",
            allowed=f"at most the model's {architecture.vocab_size:,}",
            next="Set model.vocab_size or another tokenizer.",
        )
    return tokenizer


def _validation(
    recipe: PretrainRecipe, parts: list[Part], tokenizer: Tokenizer, run: RunDir
) -> dict[str, TokenBlocks]:
    """The texts by the names of their files, or of a blend's sources."""
    if len(parts) > 1:
        blend = load_text("validation", parts, tokenizer, recipe.data, run / "tokens")
        return dict(blend.by_domain())
    path = parts[0].path
    files = data_files(path)
    return {
        file.name if file == path else str(file.relative_to(path)): load_blocks(
            file, tokenizer, block_length=recipe.data.length, cache=run / "tokens"
        )
        for file in files
    }


def _measured(model: HybridLM, texts: dict[str, TokenBlocks]) -> dict[str, float]:
    result = {}
    for name, blocks in texts.items():
        metrics = measure(model, blocks)
        result[name] = metrics.loss
        per_byte = metrics.bits_per_byte(blocks.text_bytes / blocks.counted)
        log.info(f"pretrain: {name}: {metrics.loss:.4f} nats/token, {per_byte:.4f} bits/byte")
        result[f"{name} bits per byte"] = per_byte
    return result


def _seconds(log: Path) -> float:
    *_, last = csv.DictReader(log.read_text().splitlines())
    return float(last["seconds"])
