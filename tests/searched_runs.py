"""A run directory after search, and commands that die in it."""

from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run

from minipuzzle.training import loop

SHORT = (
    "--tokens",
    1024,
    "--short-tokens",
    768,
    "--learning-rate",
    "5e-4",
    "--validation",
    TEXT,
    "--data",
    TEXT,
    "--length",
    64,
    "--batch",
    4,
    "--device",
    "cpu",
)


class Died(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def die(*_, **__):
    raise Died


def dying_at(call, function):
    calls = []

    def killed(*args, **options):
        calls.append(1)
        if len(calls) == call:
            raise Died
        return function(*args, **options)

    return killed


def dying_at_step(call):
    """``_Run._step`` of the training loop, which dies in place of step ``call``."""
    step, calls = loop._Run._step, []

    def killed(run, due):
        calls.append(1)
        if len(calls) == call:
            run.states.settle()  # its thread would write on in this process
            raise Died
        return step(run, due)

    return killed


def search_into(folder):
    """A run directory in ``folder`` after search, with five candidates; its parent is ckpt."""
    save(shaken(tiny()), folder / "ckpt")
    run("score", folder / "ckpt", "--run", folder / "run", "--data", TEXT, *FAST["score"])
    search = (*FAST["search"], "--method", "solver", "--refine", 2, "--top", 5)
    run("search", "--run", folder / "run", *search)
    return folder / "run"
