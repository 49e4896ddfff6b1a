"""What a model loses in 8 and 4 bits, rounded afterwards and trained so (QAD). Tables of
docs/results/quantised.md, by domain.

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
import ctypes
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.export.compressed import Encoder
from minipuzzle.export.served import served
from minipuzzle.memory.formats import format_of
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM
from minipuzzle.report.svg import save_png
from minipuzzle.runs.job import open_checkpoint
from minipuzzle.settings import Data, Training
from minipuzzle.training import distillation, train
from minipuzzle.training.trained import choose_trained

WHOLE, PLAIN, AFTER, QAD = "bf16", "plain", "after", "qad"
TRAINED = ("fp8", "nvfp4", "mxfp4", "int4", "int4-64", "int4-32")
GGUF = ("Q8_0", "Q4_K", "Q4_0", "IQ4_NL")
FORMATS = (WHOLE, *TRAINED, *GGUF)
GGML = {"Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "IQ4_NL": 20}
"""Numbers of ggml's types."""
Weights = Callable[[HybridLM], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Losses in nats a token of a model in a format; ``choice`` on the half that rates are chosen
    on, the others on the other half; ``kl`` to the teacher.
    """

    way: str
    format: str
    rate: float
    seed: int
    bytes: int
    choice: float
    loss: float
    domains: dict[str, float]
    kl: float


class Study:
    """The models and texts of a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.folder)
        validation = options.validation or str(_beginnings(self.folder, options.characters))
        data = Data(train=options.train, validation=validation, length=options.length)
        teacher = Path(options.teacher)
        self.job = mp.load(teacher, run=self.folder / "run", data=data, device=options.device)
        self.start = open_checkpoint(embedded.checkpoint_path(Path(options.start)))
        self.itself = self.start.fingerprint == self.job.parent.fingerprint

    @cached_property
    def teacher(self) -> HybridLM:
        """As distill asks it."""
        return self.job.load_frozen(self.job.parent)

    def formats(self) -> dict[str, tuple[int, Weights]]:
        """Of each format that the model's columns allow: the bytes of the file, and its weights."""
        found: dict[str, tuple[int, Weights]] = {}
        for name in FORMATS:
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
            return _gguf_bytes(self.start, name), partial(_in_gguf, name=name)
        encoder = _encoder(self.start, name)
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
        model = self.job.load(self.start)
        choose_trained(model, "all-but-routers")
        train(
            model,
            distillation(self.teacher),
            self.job.text("train"),
            Training(
                tokens=self.options.tokens, learning_rate=rate, batch=self.options.batch, seed=seed
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


def _encoder(checkpoint: Checkpoint, name: str) -> Encoder:
    family, _, group = name.partition("-")
    return Encoder(checkpoint, format_of(family, int(group or 128)))


def _beginnings(folder: Path, characters: int) -> Path:
    """The beginnings of the embedded validation texts, a file a domain."""
    target = folder / "validation"
    target.mkdir(parents=True, exist_ok=True)
    for domain in ("code", "docs", "speeches"):
        with bz2.open(embedded.text_path("validation") / f"{domain}.txt.bz2", "rt") as whole:
            (target / f"{domain}.txt").write_text(whole.read(characters))
    return target


def _type(columns: int, name: str) -> str:
    """What llama-quantize takes where 256 does not divide the columns."""
    return "Q5_0" if name == "Q4_K" and columns % 256 else name


def _matrices(architecture: object) -> list[str]:
    blocks = enumerate(getattr(architecture, "blocks"))  # noqa: B009
    return [f"blocks.{i}.{name}" for i, block in blocks for name in block.matrices]


def _gguf_bytes(checkpoint: Checkpoint, name: str) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    size = checkpoint.bytes
    for path in _matrices(checkpoint.architecture):
        weight = checkpoint.tensor(path)
        block, held = GGML_QUANT_SIZES[GGMLQuantizationType[_type(weight.shape[-1], name)]]
        size += weight.numel() // block * held - weight.nbytes
    return size


@contextmanager
def _in_gguf(model: HybridLM, name: str) -> Iterator[None]:
    """Within it matrices are what llama.cpp's own quantiser makes of them, without an importance
    matrix; head and embeddings stay whole, as in the other formats.
    """
    own = {
        path: model.get_parameter(path).detach().clone() for path in _matrices(model.architecture)
    }
    with torch.no_grad():
        for path, weight in own.items():
            rounded = _ggml(weight.flatten(0, -2).cpu(), _type(weight.shape[-1], name))
            model.get_parameter(path).copy_(rounded.view_as(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for path, weight in own.items():
                model.get_parameter(path).copy_(weight)


def _ggml(weight: torch.Tensor, name: str) -> torch.Tensor:
    """[rows, columns] FP32 through ``ggml_quantize_chunk`` of xllamacpp's library and back through
    the reader of the package gguf.
    """
    import xllamacpp
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    library = ctypes.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    quantise = library.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    kind = GGMLQuantizationType[name]
    assert int(kind) == GGML[name]
    block, held = GGML_QUANT_SIZES[kind]
    source = weight.to(torch.bfloat16).float().contiguous()
    rows, columns = source.shape
    codes = torch.empty((rows, columns // block * held), dtype=torch.uint8)
    written = quantise(int(kind), source.data_ptr(), codes.data_ptr(), 0, rows, columns, None)
    assert written == codes.numel(), (written, codes.shape)
    return torch.from_numpy(dequantize(codes.numpy(), kind))


def table(folder: Path) -> None:
    """Losses above the whole model's in percent, by domain; mean and half of the seeds' range."""
    found = [Result(**json.loads(p.read_text())) for p in sorted(folder.glob("results/*.json"))]
    whole = next(result for result in found if (result.way, result.format) == (AFTER, WHOLE))
    domains = list(whole.domains)
    head = ["format", "way", "MB", "rate", *domains, "all", "KL", "won back", "seeds"]
    print("| " + " | ".join(head) + " |\n|---|---|" + "--:|" * (len(head) - 2))
    drawn: dict[str, list[float]] = {}
    for name in FORMATS:
        loss = None
        for way in (AFTER, PLAIN, QAD):
            # the control's rate is chosen whole: it does not know what it will be rounded to
            first = [
                r for r in found if (r.way, r.format) == (way, WHOLE if way == PLAIN else name)
            ]
            runs = [r for r in found if (r.way, r.format) == (way, name) and r.rate == rate(first)]
            if not runs:
                continue
            if way == AFTER:
                loss = runs[0].loss - whole.loss
            cells = [
                name,
                way,
                f"{runs[0].bytes / 1e6:.2f}",
                f"{runs[0].rate:g}" if runs[0].rate else "",
            ]
            for domain in domains:
                cells.append(shown([above(r.domains[domain], whole.domains[domain]) for r in runs]))
            cells.append(shown([above(r.loss, whole.loss) for r in runs]))
            cells.append(f"{statistics.mean(r.kl for r in runs):.4f}")
            back = [100 * (1 - (r.loss - whole.loss) / loss) for r in runs] if loss else []
            cells.append(shown(back, 0) if back and way != AFTER else "")
            print("| " + " | ".join([*cells, str(len(runs))]) + " |")
            drawn[f"{name}, {way}"] = [above(r.loss, whole.loss) for r in runs]
    print(f"whole: {whole.loss:.4f} nats/token", whole.domains)
    save_png(lambda axes: draw(axes, drawn), folder / "quantised.png", (7, 4))


def rate(runs: list[Result]) -> float | None:
    """The rate that was best with the first seed."""
    first = [run for run in runs if run.seed == 0]
    return min(first, key=lambda run: run.choice).rate if first else None


def above(loss: float, whole: float) -> float:
    """In percent."""
    return 100 * (loss / whole - 1)


def shown(each: list[float], digits: int = 2) -> str:
    """A mean and half of the range."""
    text = f"{statistics.mean(each):+.{digits}f}"
    return f"{text} ± {(max(each) - min(each)) / 2:.{digits}f} %" if len(each) > 1 else f"{text} %"


def draw(axes: object, drawn: dict[str, list[float]]) -> None:
    """A bar a row, seeds as whiskers."""
    bars = axes.barh(  # type: ignore[attr-defined]
        list(drawn),
        [statistics.mean(each) for each in drawn.values()],
        xerr=[(max(each) - min(each)) / 2 for each in drawn.values()],
    )
    for bar, name in zip(bars, drawn, strict=True):
        bar.set_color("C1" if name.endswith(QAD) else "C0")
    axes.invert_yaxis()  # type: ignore[attr-defined]
    axes.set_xlabel("loss above the whole model's, %")  # type: ignore[attr-defined]


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("what", choices=["after", "train", "table"])
    options.add_argument("folder")
    options.add_argument("formats", nargs="*")
    options.add_argument("--start", default="embedded")
    options.add_argument("--teacher", default="embedded")
    options.add_argument("--train", default="")
    options.add_argument("--validation", default="")
    options.add_argument("--characters", type=int, default=40_000)
    options.add_argument("--length", type=int, default=256)
    options.add_argument("--tokens", type=int, default=40_000)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument(
        "--rates", type=lambda text: [float(r) for r in text.split(",")], default=[1e-4, 4e-4]
    )
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--device", default="auto")
    said = options.parse_args()
    if said.what == "table":
        table(Path(said.folder))
        return
    study = Study(said)
    if said.what == "after":
        study.after()
    for name in said.formats:
        study.train(name)


if __name__ == "__main__":
    main()
