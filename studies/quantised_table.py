"""The table and the picture of studies/quantised.py."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from minipuzzle.report.svg import save_png

WHOLE, MIX, PLAIN, AFTER, QAD = "bf16", "mix", "plain", "after", "qad"
TRAINED = ("fp8", "nvfp4", "mxfp4", "int4", "int4-64", "int4-32")
GGUF = ("Q8_0", "Q4_K", "Q4_0", "IQ4_NL")
FORMATS = (WHOLE, *TRAINED, MIX, *GGUF)


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


def table(folder: Path) -> None:
    """Losses above the whole model's in percent, by domain; mean and half of the seeds' range."""
    found = [Result(**json.loads(p.read_text())) for p in sorted(folder.glob("results/*.json"))]
    whole = next(result for result in found if (result.way, result.format) == (AFTER, WHOLE))
    domains = list(whole.domains)
    controls = [r for r in found if (r.way, r.format) == (PLAIN, WHOLE)]
    trained = [r.loss for r in controls if r.rate == rate(controls)]
    last = "beside BF16 trained as long" if trained else "won back"
    head = ["format", "way", "MB", "rate", *domains, "all", "KL", last, "seeds"]
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
            if way == AFTER:
                cells.append("")
            elif trained:
                cells.append(shown([above(r.loss, statistics.mean(trained)) for r in runs]))
            else:
                back = [100 * (1 - (r.loss - whole.loss) / loss) for r in runs] if loss else []
                cells.append(shown(back, 0) if back else "")
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
