"""Every single write of a run fails once; the run says so, and continues to the same files."""

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
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline

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
# How often each stage opens, writes, syncs or replaces a file; a test counts them anew.
STEPS = {"teachers": 28, "synthesis": 78, "diversity": 34, "labels": 32, "evaluation": 40}
RESULTS = ("*.png", "*.safetensors", "*.csv")


class PowerLossError(BaseException):
    """The machine is off: nothing after this reaches the disk, tidying up included."""


class Faults:
    """Counts what touches the disk, and fails at one place."""

    def __init__(self, at: int | None = None, error: BaseException | None = None) -> None:
        self.seen, self._at, self._error = 0, at, error
        self.off = False

    def step(self) -> None:
        if self.off:
            raise PowerLossError
        self.seen += 1
        if self.seen - 1 == self._at and self._error is not None:
            self.off = isinstance(self._error, PowerLossError)
            raise self._error


class Watched:
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

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def faulty(faults: Faults) -> Iterator[None]:
    """Let everything that the kit writes pass the counter."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, counted(getattr(owner, name), faults, name))
        opened = Path.open

        def open_watched(path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
            if not set(mode) & set("xaw"):
                return opened(path, mode, *args, **named)
            faults.step()
            return Watched(opened(path, mode, *args, **named), faults)

        patch.setattr(Path, "open", open_watched)
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


def results(run: Run) -> dict[str, str]:
    return {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in RESULTS
        for path in sorted(run.path.rglob(pattern))
        if not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The run as it is before each stage, and under `whole` after the last."""
    folder = tmp_path_factory.mktemp("faults")
    run = opened(folder / "now")
    kept = {}
    for stage in STAGES:
        kept[stage] = copy_of(run, folder / stage)
        pipeline.execute(run, stage)
    return {**kept, "whole": run}


def copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.path, folder / run.name)
    return Run(folder / run.name, run.settings)


@pytest.mark.parametrize("stage", STAGES)
def test_every_step_is_among_the_cases(stage: str, before: dict[str, Run], tmp_path: Path) -> None:
    run, faults = copy_of(before[stage], tmp_path), Faults()
    with faulty(faults):
        pipeline.execute(run, stage)
    assert faults.seen == STEPS[stage]


OPENING = 12  # likewise of a new run's opening


def test_every_step_of_the_opening_is_among_the_cases(tmp_path: Path) -> None:
    faults = Faults()
    with faulty(faults):
        opened(tmp_path)
    assert faults.seen == OPENING


@pytest.mark.parametrize("step", range(OPENING))
@pytest.mark.parametrize("off", [False, True], ids=["full disk", "power loss"])
def test_run_that_was_half_begun_is_begun(step: int, off: bool, tmp_path: Path) -> None:
    error = PowerLossError() if off else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with faulty(Faults(step, error)), pytest.raises((PowerLossError, PrismError)):
        opened(tmp_path)
    again, new = opened(tmp_path), opened(tmp_path / "new")
    assert again.settings == new.settings
    assert again.read_classes() == new.read_classes() is not None
    assert again.manifest.read() == new.manifest.read() != {}


def opened(folder: Path) -> Run:
    return open_run_module.open_run(
        run_name="run", preset="digits_quick", runs_dir=folder, changes=SMALL
    )


CASES = [(stage, step) for stage in STAGES for step in range(STEPS[stage])]


@pytest.mark.parametrize(("stage", "step"), CASES)
def test_full_disk_is_said_and_the_run_continues(
    stage: str, step: int, before: dict[str, Run], tmp_path: Path
) -> None:
    run = copy_of(before[stage], tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with faulty(Faults(step, full)), pytest.raises(PrismError, match="No space left"):
        pipeline.execute(run, stage)
    continues_to_the_same(run, stage, before)


@pytest.mark.parametrize(("stage", "step"), CASES)
def test_run_continues_after_the_power_was_gone(
    stage: str, step: int, before: dict[str, Run], tmp_path: Path
) -> None:
    run = copy_of(before[stage], tmp_path)
    with faulty(Faults(step, PowerLossError())), pytest.raises(PowerLossError):
        pipeline.execute(run, stage)
    for lease in run.path.glob("locks/**/*.json"):
        lease.unlink()  # this process lives on, and so its leases would
    continues_to_the_same(run, stage, before)


def continues_to_the_same(run: Run, stage: str, before: dict[str, Run]) -> None:
    pipeline.execute(run, stage)
    pipeline.check(run, stage)
    whole, found = results(before["whole"]), results(run)
    assert found == {path: whole[path] for path in found}
    assert found.keys() >= {path for path in whole if path.startswith(f"{stage}/")}
