"""Writes of a run fail; the error is reported, and the run continues to the same files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run

SMALL: dict[str, Any] = {
    "teachers": ["test_resnet"],
    "primary": "test_resnet",
    "holdout_networks": [],
    "feature_networks": ["test_resnet"],
    "squeeze_epochs": 1,
    "squeeze_batch": 600,
    "methods": ["prism"],
    "ipc": 1,
    "batch_size": 5,
    "recipe": {"iterations": 2},
    "label_epochs": 2,
    "students": ["test_resnet"],
    "student_seeds": 1,
    "evaluate_every": 2,
    "real_per_class": 5,
    "image_size": 16,
    "preview_every": 0,
}
STAGES = list(pipeline.STAGES)
PLACES = 5  # of all opened, written, synced and replaced files of a stage, that fail
RESULTS = ("*.png", "*.safetensors", "*.csv")


class PowerLossError(BaseException):
    """The machine is off: nothing after this reaches the disk, tidying up included."""


class Faults:
    """Counts the operations on the disk, and fails at one of them."""

    def __init__(self, at: int | None = None, error: BaseException | None = None) -> None:
        self.count, self._at, self._error = 0, at, error
        self.off = False

    def step(self) -> None:
        if self.off:
            raise PowerLossError
        self.count += 1
        if self._error is not None and self.count - 1 == self._at:
            self.off = isinstance(self._error, PowerLossError)
            raise self._error


class FaultyFile:
    """An open file whose writes may fail."""

    def __init__(self, file: IO[bytes], faults: Faults) -> None:
        self._file, self._faults = file, faults

    def write(self, content: bytes) -> int:
        self._faults.step()
        return self._file.write(content)

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> FaultyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def faulty(faults: Faults) -> Iterator[None]:
    """Count every operation with which the kit writes."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, counted(getattr(owner, name), faults, name))
        opened = Path.open

        def open_faulty(path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
            if not set(mode) & set("xaw"):
                return opened(path, mode, *args, **named)
            faults.step()
            return FaultyFile(opened(path, mode, *args, **named), faults)

        patch.setattr(Path, "open", open_faulty)
        yield


def counted(function: Callable[..., Any], faults: Faults, name: str) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode):
            return function(*args, **named)  # not every file system can, so none may need it
        if name != "unlink":
            faults.step()
        elif faults.off:
            raise PowerLossError
        return function(*args, **named)

    return call


def new_run(folder: Path) -> Run:
    return open_run(run_name="run", preset="digits_quick", runs_dir=folder, changes=SMALL)


def copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.path, folder / run.name)
    return Run(folder / run.name, run.settings)


def results(run: Run) -> dict[str, str]:
    return {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in RESULTS
        for path in sorted(run.path.rglob(pattern))
        if not path.name.startswith(".")
    }


def places(action: Callable[[], object]) -> list[int]:
    """Operations of an action that are to fail: the first, the last, and some between."""
    faults = Faults()
    with faulty(faults):
        action()
    last = faults.count - 1
    return sorted({round(last * place / (PLACES - 1)) for place in range(PLACES)})


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The run as it is before each stage, and under `whole` after the last."""
    folder = tmp_path_factory.mktemp("faults")
    run, copies = new_run(folder / "now"), {}
    for stage in STAGES:
        copies[stage] = copy_of(run, folder / stage)
        pipeline.execute(run, stage)
    return {**copies, "whole": run}


FAULTS = pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, "No space left"), PrismError), (PowerLossError(), PowerLossError)],
    ids=["full disk", "power loss"],
)


@FAULTS
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_continues_after_a_fault(
    stage: str,
    error: BaseException,
    raised: type[BaseException],
    before: dict[str, Run],
    tmp_path: Path,
) -> None:
    undisturbed, whole = copy_of(before[stage], tmp_path / "undisturbed"), results(before["whole"])
    for place in places(lambda: pipeline.execute(undisturbed, stage)):
        run = copy_of(before[stage], tmp_path / f"{place}")
        with faulty(Faults(place, error)), pytest.raises(raised, match="No space left|^$"):
            pipeline.execute(run, stage)
        if raised is PowerLossError:
            for lease in run.path.glob("locks/**/*.json"):
                lease.unlink()  # which this living process would hold on to
        pipeline.execute(run, stage)
        pipeline.check(run, stage)
        found = results(run)
        assert found == {path: whole[path] for path in found}
        assert found.keys() >= {path for path in whole if path.startswith(f"{stage}/")}


@FAULTS
def test_a_run_half_begun_is_begun_again(
    error: BaseException, raised: type[BaseException], tmp_path: Path
) -> None:
    new = tmp_path / "new"
    for place in places(lambda: new_run(new)):
        folder = tmp_path / f"{place}"
        with faulty(Faults(place, error)), pytest.raises(raised):
            new_run(folder)
        again, whole = new_run(folder), Run.open(new / "run")
        assert again.settings == whole.settings
        assert again.read_classes() == whole.read_classes() is not None
        recorded = {**again.manifest.read(), "folder": str(whole.path)}  # which is each run's own
    assert recorded == whole.manifest.read() != {}
