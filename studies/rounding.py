"""What choosing codes by what matrices read wins: GPTQ in INT4 and NVFP4, importance matrices in
GGUF's formats. Tables of docs/results/quantised.md.

    # an environment with llmcompressor==0.14.0.1; llama.cpp's llama-quantize on PATH
    PYTHONPATH=. python studies/rounding.py FOLDER [--seeds 0 1] [--samples 64] [--only WORD …]

The embedded teacher, nothing cut and nothing trained. A seed draws the calibration text. Losses and
KL to the whole model are of the half of the validation text that nobody chose on; the interval of
95 % is of the difference to the nearest codes of the same format, over blocks of text.
FOLDER/rounding.jsonl keeps the rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import torch
from quantised import beginnings

from minipuzzle.embedded import teacher_path
from minipuzzle.export.compressed import Encoder
from minipuzzle.export.gguf import export_gguf, layout_of
from minipuzzle.export.gptq import round_by_gptq
from minipuzzle.export.inputs import squared_inputs
from minipuzzle.export.llama_quantize import Importance
from minipuzzle.export.served import served
from minipuzzle.memory.formats import format_of
from minipuzzle.metrics import answers, measure
from minipuzzle.model import HybridLM
from minipuzzle.rundir import RunDir
from minipuzzle.runs.calibrated import BATCH, calibration
from minipuzzle.runs.job import Job
from minipuzzle.settings import Data

CODES = (("int4-64", 64), ("int4-32", 32), ("nvfp4", 0))
FILES = ("q4_k_m", "q3_k_m", "iq4_xs")


class Study:
    """What is measured of the teacher, and written down."""

    def __init__(self, line: argparse.Namespace) -> None:
        self.line = line
        self.data = Data(length=256, validation=str(beginnings(line.folder, line.characters)))
        self.job = Job(
            RunDir(line.folder / "run"), checkpoint=teacher_path(), data=self.data, device="cpu"
        )
        self.teacher = self.job.parent
        self.model = self.job.load_frozen(self.teacher)
        text = self.job.validation("eval")
        self.blocks = [text.share(i, len(text)) for i in range(len(text))]
        self.whole = [answers(self.model, one, 1) for one in self.blocks]
        self.nearest: dict[str, np.ndarray] = {}
        whole = calibration(self.teacher, Data(length=256)).tokens
        self.text = torch.from_numpy(whole.astype(np.int64))

    def batches(self, seed: int) -> tuple[torch.Tensor, ...]:
        """Calibration text that a seed draws."""
        order = np.random.default_rng(seed).permutation(len(self.text))[: self.line.samples]
        return self.text[torch.from_numpy(order)].split(BATCH)

    def row(self, format: str, way: str, size: int, bits: float) -> None:
        """Measure the model as it is now, and write that down."""
        found = [
            measure(self.model, one, teacher=whole)
            for one, whole in zip(self.blocks, self.whole, strict=True)
        ]
        kl = np.array([m.kl for m in found])  # [blocks]
        less = kl - self.nearest.setdefault(format, kl)
        domains = sorted({name for m in found for name in m.domains})
        made = {
            "format": format,
            "way": way,
            "bytes": size,
            "bits": bits,
            "loss": float(np.mean([m.loss for m in found])),
            "kl": float(kl.mean()),
            "less": float(less.mean()),
            "interval": float(1.96 * less.std(ddof=1) / len(less) ** 0.5),
            "domains": {
                name: float(np.mean([m.loss for m in found if name in m.domains]))
                for name in domains
            },
        }
        with (self.line.folder / "rounding.jsonl").open("a") as file:
            file.write(json.dumps(made) + "\n")
        print(json.dumps(made), flush=True)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Within it the model's weights may change."""
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        yield
        self.model.load_state_dict(kept)

    def codes(self, name: str, group: int) -> None:
        """A format of compressed-tensors: nearest codes, then GPTQ's of each seed."""
        format = format_of(name, group)
        assert format is not None
        encoder = Encoder(self.teacher, format)
        with served(self.model, encoder):
            self.row(name, "nearest", encoder.nbytes, 0)
        for seed in self.line.seeds:
            with self.own():
                round_by_gptq(self.model, self.batches(seed), Encoder(self.teacher, format))
                self.row(name, f"gptq, seed {seed}", encoder.nbytes, 0)

    def file(self, name: str) -> None:
        """A format of llama-quantize: without an importance matrix, then with each seed's."""
        ways: dict[str, Callable[[], Importance | None]] = {"nearest": lambda: None}
        for seed in self.line.seeds:
            ways[f"importance, seed {seed}"] = lambda seed=seed: self.importance(seed)
        for way, importance in ways.items():
            target = self.line.folder / f"{name}.gguf"
            written = export_gguf(self.teacher, target, name, importance=importance())
            print(name, dict(written.types), *written.notes, sep="\n  ")
            with self.own():
                bits = self.load(target)
                self.row(name, way, written.bytes, bits)

    def importance(self, seed: int) -> Importance:
        batches = self.batches(seed)
        squares = squared_inputs(self.model, batches)
        return Importance(squares=squares, blocks=self.line.samples, length=256)

    def load(self, path: Path) -> float:
        """Take the matrices of a file, head and embeddings too; the bits of a weight in them."""
        held = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        architecture = self.teacher.architecture
        layout, model = layout_of("nemotron_h", architecture)
        bytes_, weights = 0, 0
        for tensor in layout.tensors(architecture, model):
            if tensor.matrix:
                found = held[tensor.name]
                values = gguf.quants.dequantize(found.data, found.tensor_type)
                self.parameter(self.model, tensor.source).copy_(torch.from_numpy(values))
                bytes_, weights = bytes_ + found.n_bytes, weights + values.size
        return 8 * float(bytes_) / weights

    @staticmethod
    def parameter(model: HybridLM, name: str) -> torch.Tensor:
        return model.get_parameter(name).data


def main() -> None:
    """The rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--samples", type=int, default=64, help="blocks of 256 tokens")
    parser.add_argument("--characters", type=int, default=16_000, help="of each validation text")
    parser.add_argument("--only", nargs="*", default=[])
    line = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(line)
    for name, group in CODES:
        if not line.only or name in line.only:
            study.codes(name, group)
    for name in FILES:
        if not line.only or name in line.only:
            study.file(name)


if __name__ == "__main__":
    main()
