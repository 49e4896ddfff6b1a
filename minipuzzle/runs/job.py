"""What every stage works with: the run directory, the parent checkpoint, its tokenizer, the texts
and the device.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose
from minipuzzle.model import HybridLM, frozen_model, load_frozen, load_model
from minipuzzle.questions.choosing import Asked, choosing
from minipuzzle.ranks import Ranks
from minipuzzle.records import Original
from minipuzzle.rundir import RunDir
from minipuzzle.runs.device import pick_device
from minipuzzle.runs.texts import Part, load_text, own_texts, text_parts
from minipuzzle.settings import EMBEDDED, Data, Training
from minipuzzle.training.parallel import USUAL, load_sharded

log = logging.getLogger(__name__)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder; says what of its files is read otherwise than config.json says,
    or not at all. Raises: as ``Checkpoint.open``.
    """
    checkpoint = Checkpoint.open(path)
    for note in checkpoint.notes:
        log.warning(f"note: {note}")
    return checkpoint


class Job:
    """A run directory with a parent (``choose_checkpoint``) and the texts that are for it.

    ``original`` is the teacher: the parent, or what the parent was made from in earlier steps.
    Tokenised texts are kept in ``tokens``, by default the run's.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        checkpoint: Path | None,
        data: Data,
        device: str = "auto",
        original: Path | None = None,
        tokens: Path | None = None,
    ) -> None:
        self.run, self.tokens = run, tokens or run / "tokens"
        self._texts: dict[str, list[Part]] = {}
        self.device = pick_device(device)
        self.parent = open_checkpoint(choose_checkpoint(checkpoint, run))
        first = original or run.original
        self.original = self.parent if first is None else open_checkpoint(first)
        run.set_parent(
            self.parent.path,
            self.parent.fingerprint,
            None if first is None else _row(self.original),
        )
        self.data = own_texts(data, self.original)
        self.kernels = choose(self.device)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The parent's tokenizer. Raises: UserError where its words do not fit the model's
        vocabulary.
        """
        tokenizer = Tokenizer.load(self.parent.path)
        check_tokenizer(tokenizer, self.parent)
        return tokenizer

    def text_parts(self, which: str) -> list[Part]:
        """Where that text is; says so. Raises: UserError where none is named, or it is the demo's
        and the model is not.
        """
        if which not in self._texts:
            named = getattr(self.data, which)
            self._texts[which] = text_parts(which, named, self.tokenizer, self.tokens)
        return self._texts[which]

    def text(self, which: str, length: int | None = None) -> TokenBlocks:
        """The "train", "calibration" or "validation" text as token blocks (``load_text``), of the
        data's length or of this one.
        """
        data = self.data if length is None else replace(self.data, length=length)
        return load_text(which, self.text_parts(which), self.tokenizer, data, self.tokens)

    def validation(self, part: str) -> TokenBlocks:
        """Every other block of the validation text: "search" chooses on one half, "eval" reports
        the other.
        """
        whole = self.text("validation")
        if len(whole) < 2:
            raise UserError(
                "The validation text is too short.",
                got=f"{len(whole)} block of {self.data.length} tokens",
                allowed="at least 2 blocks, one to choose on and one to report",
                next="Give more text, or lower data.length.",
            )
        return whole.every_other(0 if part == "search" else 1)

    def questions(self) -> Asked:
        """The shipped questions that choose: ``eval`` reports on others."""
        return choosing(self.tokenizer, self.original.architecture.max_positions)

    def load(
        self, checkpoint: Checkpoint, group: Ranks | None = None, settings: Training = USUAL
    ) -> HybridLM:
        """A checkpoint's model on the device to be trained: FP32 masters, in shards over
        ``group``; with ``offload`` on the CPU (``parallel.shard``).
        """
        if group is not None and (group.world > 1 or settings.offload):
            made = HybridLM(
                checkpoint.architecture, device="meta", dtype=torch.float32, kernels=self.kernels
            )
            return load_sharded(made, checkpoint, group, settings, settings.offload)
        return load_model(
            checkpoint, device=self.device, dtype=torch.float32, kernels=self.kernels
        ).eval()

    def load_frozen(
        self, checkpoint: Checkpoint, group: Ranks | None = None, settings: Training = USUAL
    ) -> HybridLM:
        """The same to be measured, asked or adapted: no gradients; on CUDA its matrices BF16, the
        rest FP32, whether whole or in shards.
        """
        if group is not None and group.world > 1:
            made = frozen_model(
                checkpoint.architecture, self.device, kernels=self.kernels, where="meta"
            )
            return load_sharded(made, checkpoint, group, settings).requires_grad_(False)
        return load_frozen(checkpoint, device=self.device, kernels=self.kernels)

    @cached_property
    def parent_model(self) -> HybridLM:
        """The parent, loaded once, as ``load_frozen`` does."""
        log.info(f"kernels: {self.kernels.describe(self.parent.architecture.blocks)}")
        return self.load_frozen(self.parent)

    def frozen_parent(self, group: Ranks) -> HybridLM:
        """The parent to be measured: ``parent_model``, or in shards over ``group``."""
        return self.parent_model if group.world == 1 else self.load_frozen(self.parent, group)

    def frozen_original(self, group: Ranks) -> HybridLM:
        """The original to be measured, in the same way."""
        if self.original is self.parent:
            return self.frozen_parent(group)
        self.forget_parent()
        return self.load_frozen(self.original, None if group.world == 1 else group)

    def forget_parent(self) -> None:
        """Give its memory back; who asks for ``parent_model`` afterwards gets it loaded anew."""
        vars(self).pop("parent_model", None)


def _row(original: Checkpoint) -> Original:
    return Original(
        path=str(original.path.resolve()),
        fingerprint=original.fingerprint,
        parameters=original.parameters,
        active=original.architecture.active_if_fewer,
        pattern=original.architecture.pattern,
    )


def check_tokenizer(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Raises: UserError where the tokenizer has words that the model has no embedding for."""
    vocabulary = checkpoint.architecture.vocab_size
    beyond = sorted(
        (number, token) for token, number in tokenizer.vocabulary.items() if number >= vocabulary
    )
    if beyond:
        named = ", ".join(f"{token} ({number})" for number, token in beyond[:3])
        raise UserError(
            "The tokenizer has another vocabulary than the model.",
            got=f"{tokenizer.vocab_size:,} tokens: {named}" + (", ..." if len(beyond) > 3 else ""),
            allowed=f"at most the model's {vocabulary:,}",
            next=f"Put the model's own tokenizer files into {checkpoint.path}.",
        )


def choose_checkpoint(named: Path | None, run: RunDir) -> Path:
    """The checkpoint that is named ("embedded": the demo's teacher), else the run's own, else the
    one in this folder or directly below it; says when it took the last. Raises: UserError where
    there is none, or several.
    """
    if named is not None or run.parent is not None:
        chosen = named or run.parent
        assert chosen is not None
        return embedded.checkpoint_path(chosen)
    folder = Path.cwd()
    found = [
        p
        for p in [folder, *sorted(folder.iterdir())]
        if p.is_dir() and (p / "config.json").is_file()
    ]
    if len(found) != 1:
        raise UserError(
            "Which checkpoint?",
            got=", ".join(p.name for p in found)
            or f"none named, none in {folder}, none in {run.path}",
            allowed="one of them" if found else "a folder with a config.json and safetensors",
            next=(
                "Name it: minipuzzle score CHECKPOINT (for eval: job.parent). To try a small"
                f" one that is in the package: minipuzzle demo, or the name {EMBEDDED}."
            ),
        )
    log.info(f"checkpoint: {found[0]}")
    return found[0]
