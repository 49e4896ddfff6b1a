"""The training state on disk: a folder a save, with safetensors shards of bounded size (``shards``)
and ``state.json``.

Steps wait while the shards are written to the system's memory; in a thread beside the training they
are then brought to the disk, read from there and compared, and only then does the folder take its
name. The last two stay; where the disk has no room for a third, the older one goes first. Any
number of processes goes on from what any other number wrote.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from minipuzzle.artifacts import disk_error, read_json, write_json
from minipuzzle.errors import UserError
from minipuzzle.identity import fingerprint
from minipuzzle.ranks import Ranks
from minipuzzle.training import shards
from minipuzzle.training.optimizers import MOMENTS, moment_tensors, new_moments
from minipuzzle.training.trained import trainable, trained_tensors

log = logging.getLogger(__name__)

ABOUT = "state.json"
SCHEMA = 3
KEPT = 2
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class States:
    """The saved states of one run in ``folder``. ``identity`` says of which run."""

    def __init__(self, folder: Path, identity: str, ranks: Ranks) -> None:
        self.folder, self.identity = folder, identity
        self.device, self.ranks = ranks.device, ranks.aside()
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._newest = -1

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        more: Mapping[str, Tensor] = NOTHING,
    ) -> dict[str, Any] | None:
        """Restore the newest whole state, of ``more`` what was saved of it, and return its
        progress; None where nothing was saved yet.

        Raises: UserError where the states belong to another run or another version of minipuzzle,
        or every one of them is damaged.
        """
        found = list_states(self.folder)
        for path in found:
            about = self._whole(path)
            if about is None:
                continue
            tensors = trained_tensors(model)
            for name, parameter in trainable(model):
                if f"{MOMENTS[0]}.{name}" in about["tensors"]:
                    moments = new_moments(optimizer, parameter)
                    step = torch.tensor(float(about["progress"]["updates"]))
                    optimizer.state[parameter] = {"step": step, **moments}
                    for key, moment in moments.items():
                        tensors |= moment_tensors(key, name, moment)
            tensors |= {name: more[name] for name in more if name in about["tensors"]}
            shards.read(path, tensors)
            progress: dict[str, Any] = about["progress"]
            self._newest = progress["tokens"]
            return progress
        if found:
            raise UserError(
                f"No training checkpoint in {self.folder} can be read.",
                got=f"{len(found)} damaged",
                allowed="one that is whole",
                next="Restore that folder from a copy, or delete it to start anew.",
            )
        return None

    @property
    def writing(self) -> bool:
        """Whether the last save is still on its way to the disk."""
        return self._writing is not None and not self._writing.done()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: dict[str, Any],
        more: Mapping[str, Tensor] = NOTHING,
    ) -> None:
        """Write the state as it is now, and ``more`` tensors by name, once the save before is on
        disk (``writing``); a thread checks what was written.

        Raises: UserError where this save or the one before failed (a full disk); the newest whole
        state is untouched.
        """
        self.wait()
        if progress["tokens"] == self._newest:
            return
        tensors = trained_tensors(model)
        for name, parameter in trainable(model):
            moments = optimizer.state.get(parameter, {})
            for key in MOMENTS:
                tensors |= moment_tensors(key, name, moments[key]) if key in moments else {}
        tensors |= more
        path = self.folder / f"{progress['tokens']:015}"
        temporary = self.folder / f".{path.name}.writing"
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the writing threads have another
        self._or_remove(temporary, lambda: self._begin(temporary))
        sums = self._or_remove(temporary, lambda: shards.write(temporary, tensors, self.ranks))
        files = {name: checksum for part in sums for name, checksum in part.items()}
        about = {
            "schema": SCHEMA,
            "identity": self.identity,
            "progress": progress,
            "tensors": sorted(tensors),
            "files": files,
        }
        self._newest = progress["tokens"]
        self._writing = self._thread.submit(
            self._write, temporary, path, sums[self.ranks.rank], about
        )

    def wait(self) -> None:
        """Until the last save is on disk. Raises: as ``save``."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def settle(self) -> None:
        """Until nothing is written any more, whatever came of it: for who stops because of another
        error.
        """
        with suppress(Exception):
            self.wait()

    def _write(
        self, temporary: Path, path: Path, sums: dict[str, str], about: dict[str, Any]
    ) -> None:
        """Bring this process's files to the disk, compare them with what was in memory, and give
        the state its name.
        """
        self._or_remove(temporary, lambda: self._verify(temporary, sums))
        self._or_remove(temporary, lambda: self._finish(temporary, path, about))

    def _or_remove(self, temporary: Path, work: Callable[[], Any]) -> list[Any]:
        """What ``work`` gives in each process; where it fails in one, what was written goes."""

        def mine() -> Any:
            try:
                return work()
            except OSError as error:
                raise disk_error(temporary, error) from error

        try:
            return self.ranks.together(mine)
        except BaseException:
            if self.ranks.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _begin(self, temporary: Path) -> None:
        if self.ranks.rank == 0:
            for left in self.folder.glob(".*.writing"):  # of a run that was killed
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
            states = list_states(self.folder)
            if len(states) == KEPT and _size(states[0]) > shutil.disk_usage(self.folder).free:
                log.warning(
                    f"the disk is nearly full: {states[-1]} makes room for the next checkpoint"
                )
                shutil.rmtree(states[-1])

    def _verify(self, temporary: Path, sums: dict[str, str]) -> None:
        wrong = shards.check(temporary, sums, written=True)
        if wrong:
            raise UserError(
                f"{temporary / wrong[0]} does not hold what was written.",
                got=f"{len(wrong)} of {len(sums)} files differ",
                allowed="what is in memory",
                next="Check that disk; the newest checkpoint saved before is untouched.",
            )

    def _finish(self, temporary: Path, path: Path, about: dict[str, Any]) -> None:
        if self.ranks.rank == 0:
            write_json(temporary / ABOUT, {**about, "checksum": fingerprint(about)})
            os.replace(temporary, path)
            for old in list_states(self.folder)[KEPT:]:
                shutil.rmtree(old)

    def _whole(self, path: Path) -> dict[str, Any] | None:
        """What is said about a state; None, and a word to the user, where its files are not what
        was written.
        """
        about = _about(path)
        if about is not None and about["identity"] != self.identity:
            raise UserError(
                f"{self.folder} holds the training checkpoint of another run.",
                got=f"identity {about['identity']}",
                allowed=f"identity {self.identity} (same model, teacher, data and settings)",
                next="Repeat the command with the settings it was started with, or delete that "
                "folder to start anew.",
            )
        damaged = _damaged(path, about, self.ranks)
        if self.ranks.least(-len(damaged)) == 0:
            return about
        which = ", ".join(damaged) or "on another process"
        log.warning(f"the training checkpoint {path} is damaged ({which}): trying the one before")
        if self.ranks.rank == 0:
            aside = path.with_suffix(".damaged")  # which does not count among those that are kept
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        return None


def list_states(folder: Path) -> list[Path]:
    """The saved states in a folder, newest first."""
    return sorted(
        (path.parent for path in folder.glob(f"*/{ABOUT}") if path.parent.name.isdigit()),
        reverse=True,
    )


def load_parameters(folder: Path, model: nn.Module, ranks: Ranks) -> None:
    """Restore only the parameters of the newest state, for a run that goes on from another run's
    result.

    Raises: UserError where it is damaged.
    """
    path = list_states(folder)[0]
    found = ranks.together(lambda: _damaged(path, _about(path), ranks))
    if damaged := [name for names in found for name in names]:
        raise UserError(
            f"The training checkpoint {path} is damaged.",
            got=f"other bytes in {', '.join(damaged)}",
            allowed="what was written there",
            next=f"Restore it from a copy, or delete {folder}: its training is repeated.",
        )
    shards.read(path, trained_tensors(model))


def _damaged(path: Path, about: dict[str, Any] | None, ranks: Ranks) -> list[str]:
    """The names of files, of this process's share of them, that are not what was written."""
    if about is None:
        return [ABOUT]
    return shards.check(
        path,
        {name: about["files"][name] for name in sorted(about["files"])[ranks.rank :: ranks.world]},
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def _about(path: Path) -> dict[str, Any] | None:
    """What ``state.json`` says; None where it is not what was written.

    Raises: UserError where another version of minipuzzle wrote it.
    """
    try:
        about: Any = read_json(path / ABOUT)
    except UserError:
        return None
    if not isinstance(about, dict):
        return None
    if about.get("schema") != SCHEMA:
        raise UserError(
            f"Another version of minipuzzle saved the training checkpoint {path}.",
            got=f"schema {about.get('schema')}",
            allowed=f"schema {SCHEMA}",
            next=f"Delete {path.parent} to train anew, or end that run with its version.",
        )
    checksum = about.pop("checksum", None)
    return about if checksum == fingerprint(about) else None
