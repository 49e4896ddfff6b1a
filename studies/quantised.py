"""What a model loses in 8 and 4 bits, rounded afterwards and trained so (QAD). Tables of
docs/results/quantised.md, by domain.

    OMP_NUM_THREADS=1 python studies/quantised.py mix FOLDER      # by search, at NVFP4's bytes
    OMP_NUM_THREADS=1 python studies/quantised.py after FOLDER
    OMP_NUM_THREADS=1 python studies/quantised.py train FOLDER nvfp4 int4-32
    python studies/quantised.py table FOLDER

``--start`` is the model that is quantised and ``--teacher`` its teacher, by default both the
embedded one; where they differ ``train FOLDER plain`` is the control, as many tokens in BF16, which
is then rounded to each format too. Every way trains at each of ``--rates`` with the first seed and
at its better one with the others; a rate is chosen on one half of the validation text, reported is
the other. Given again it goes on.
"""

from __future__ import annotations

import argparse
import bz2
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import torch
from quantised_gguf import gguf_bytes, in_gguf, lacking
from quantised_mix import mixed
from quantised_table import AFTER, FORMATS, GGUF, MIX, PLAIN, QAD, WHOLE, Result, table

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.errors import UserError
from minipuzzle.export.compressed import Encoder
from minipuzzle.export.served import served
from minipuzzle.memory.formats import format_of, pair_of
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM
from minipuzzle.runs.job import Job, open_checkpoint
from minipuzzle.settings import Data, Training
from minipuzzle.training import distillation, train
from minipuzzle.training.trained import choose_trained

Weights = Callable[[HybridLM], AbstractContextManager[None]]


class Study:
    """The models and texts of a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.folder)
        self.kept_mix = self.folder / "mix.json"
        validation = options.validation or str(beginnings(self.folder, options.characters))
        texts = {"calibration": options.calibration, "train": options.train}
        self.data = Data(validation=validation, length=options.length, **texts)
        self.job = self.open(Path(options.teacher), "run")
        self.start = open_checkpoint(embedded.checkpoint_path(Path(options.start)))
        self.itself = self.start.fingerprint == self.job.parent.fingerprint

    def open(self, model: Path, run: str) -> Job:
        """A run within the folder."""
        device = self.options.device
        return mp.load(model, run=self.folder / run, data=self.data, device=device)

    def mix(self) -> None:
        """Let search choose it, and keep that."""
        if self.kept_mix.exists():
            return
        size, options = self.format("nvfp4")[0], self.options
        score = {"samples": options.samples, "metric": "kl"}
        search = {"validation_blocks": options.blocks, "candidates": 4, "refine": 6}
        formats = mixed(self.open(Path(options.start), "mix"), size, score, search)
        write_json(self.kept_mix, {"formats": formats})
        print(f"mix: {self.format(MIX)[0]:,} bytes of {size:,}: {' '.join(formats)}")

    @cached_property
    def teacher(self) -> HybridLM:
        """As distill asks it."""
        return self.job.load_frozen(self.job.parent)

    def formats(self) -> dict[str, tuple[int, Weights]]:
        """Of each format that the model's columns allow: the bytes of the file, and its weights."""
        found: dict[str, tuple[int, Weights]] = {}
        for name in FORMATS:
            if name == MIX and not self.kept_mix.exists():
                print(f"{name}: no search chose one yet")
                continue
            if name in GGUF and lacking(self.start, name):
                print(f"{name}: xllamacpp is not installed")
                continue
            try:
                found[name] = self.format(name)
            except UserError as error:
                print(f"{name}: {error.args[0]}")
        return found

    def format(self, name: str) -> tuple[int, Weights]:
        """Raises: UserError where its groups do not divide the model's columns."""
        if name == WHOLE:
            return self.start.bytes, lambda model: nullcontext()
        if name in GGUF:
            return gguf_bytes(self.start, name), partial(in_gguf, name=name)
        if name == MIX:
            names = json.loads(self.kept_mix.read_text())["formats"]
            encoder = Encoder(self.start, list(map(pair_of, names)))
        else:
            encoder = Encoder(self.start, format_of(name))
        return encoder.nbytes, partial(served, encoder=encoder)

    def result(self, model: HybridLM, way: str, name: str, rate: float, seed: int) -> Result:
        """Measure it and keep that."""
        size, weights = self.format(name)
        with weights(model):
            choice = measure(model, self.job.validation("search"))
            found = measure(model, self.job.validation("eval"), teacher=self.teacher)
        assert found.kl is not None
        made = Result(
            way=way,
            format=name,
            rate=rate,
            seed=seed,
            bytes=size,
            choice=choice.loss,
            loss=found.loss,
            domains={domain: part.loss for domain, part in found.domains.items()},
            kl=found.kl,
        )
        write_json(self._stored(way, name, rate, seed), asdict(made))
        print(json.dumps(asdict(made)), flush=True)
        return made

    def after(self) -> None:
        """The model as it is, rounded to each format."""
        model = self.job.load(self.start)
        for name in self.formats():
            if not self._stored(AFTER, name, 0.0, 0).exists():
                self.result(model, AFTER, name, 0.0, 0)

    def train(self, name: str) -> None:
        """Every rate, and the better one with other seeds. Of the control, which is rounded
        afterwards, the rate is chosen in whole precision.
        """
        if name == PLAIN and self.itself:
            raise SystemExit("plain: the model is its own teacher, there is nothing to learn")
        seeds = range(self.options.seeds)
        tried = [self.one(name, rate, seeds[0]) for rate in self.options.rates]
        best = min(tried, key=lambda result: result.choice)
        for seed in seeds[1:]:
            self.one(name, best.rate, seed)

    def one(self, name: str, rate: float, seed: int) -> Result:
        """Train it, or read what it was."""
        way, first = (PLAIN, WHOLE) if name == PLAIN else (QAD, name)
        stored = self._stored(way, first, rate, seed)
        if stored.exists():
            return Result(**json.loads(stored.read_text()))
        weights = self.format(first)[1]
        if first in GGUF and self.job.device.type == "cuda":
            weights = partial(weights, compiled=True)
        model = self.job.load(self.start)
        choose_trained(model, "all-but-routers")
        train(
            model,
            distillation(self.teacher),
            self.job.text("train"),
            Training(
                tokens=self.options.tokens,
                learning_rate=rate,
                batch=self.options.batch,
                micro_batch=self.options.micro_batch,
                seed=seed,
            ),
            self.folder / "training" / stored.stem,
            identity=f"{self.start.fingerprint} {self.job.parent.fingerprint} {name}",
            **({} if name == PLAIN else {"served": partial(weights, model)}),
        )
        with torch.no_grad():  # as the file holds what stays whole
            for path, parameter in model.named_parameters():
                parameter.copy_(parameter.to(self.start.held_dtype(path)))
        made = self.result(model, way, first, rate, seed)
        for other in self.formats() if name == PLAIN else ():
            if other != WHOLE:
                self.result(model, PLAIN, other, rate, seed)
        return made

    def _stored(self, way: str, name: str, rate: float, seed: int) -> Path:
        return self.folder / "results" / f"{way}.{name}.{rate:g}.{seed}.json"


def beginnings(folder: Path, characters: int) -> Path:
    """The beginnings of the embedded validation texts, a file a domain."""
    target = folder / "validation"
    target.mkdir(parents=True, exist_ok=True)
    for domain in ("code", "docs", "speeches"):
        with bz2.open(embedded.text_path("validation") / f"{domain}.txt.bz2", "rt") as whole:
            (target / f"{domain}.txt").write_text(whole.read(characters))
    return target


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("what", choices=["mix", "after", "train", "table"])
    options.add_argument("folder")
    options.add_argument("formats", nargs="*")
    options.add_argument("--start", default="embedded")
    options.add_argument("--teacher", default="embedded")
    options.add_argument("--calibration", default="")
    options.add_argument("--train", default="")
    options.add_argument("--validation", default="")
    options.add_argument("--characters", type=int, default=40_000)
    options.add_argument("--length", type=int, default=256)
    options.add_argument("--tokens", type=int, default=40_000)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--micro-batch", type=int, default=0)
    options.add_argument(
        "--rates", type=lambda text: [float(r) for r in text.split(",")], default=[1e-4, 4e-4]
    )
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--samples", type=int, default=8, help="blocks that score reads")
    options.add_argument("--blocks", type=int, default=16, help="of text that the search reads")
    options.add_argument("--device", default="auto")
    said = options.parse_args()
    if said.what == "table":
        table(Path(said.folder))
        return
    study = Study(said)
    if said.what in ("mix", "after"):
        getattr(study, said.what)()
    for name in said.formats:
        study.train(name)


if __name__ == "__main__":
    main()
