"""Whether what a run holds can be trusted: what is wrong, what of it is harmless, what mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from prism_nb.core.errors import PrismError, first_difference
from prism_nb.core.lock import Owner, is_alive, seconds_since_heartbeat
from prism_nb.core.manifest import UnitState
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import label_unit
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import LabelStore
from prism_nb.execution import pipeline

_UNFINISHED = (".*.part", ".*.now")  # what an interrupted write leaves
_STILL = 10.0  # seconds without a change; what nobody holds a lease for is written in far fewer


@dataclass(frozen=True)
class Finding:
    """Something about a run that is not as it should be.

    Attributes:
        kind: `damaged`: results that cannot be trusted. `stray`: files that no unit has made, which
            the kit passes over and other programs would take for results. `leftover`: of
            interrupted work; nothing reads it. `not checked`: for want of something.
        where: A unit, or a path relative to the run.
        what: In words.
        remedy: What to do about it.
    """

    kind: Literal["damaged", "stray", "leftover", "not checked"]
    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class VerificationReport:
    """What a look at a whole run has found.

    Attributes:
        whole: By stage, the number of units that are complete and whole, and of all.
        findings: What is not as it should be.
    """

    whole: dict[str, tuple[int, int]]
    findings: tuple[Finding, ...]

    @property
    def damages(self) -> int:
        """Number of findings that say something cannot be trusted."""
        return sum(each.kind == "damaged" for each in self.findings)


def verify_run(run: Run) -> VerificationReport:
    """Check markers, hashes, counts, class order, and labels against images.

    Nothing is written, and a run that is going on may be looked at.

    Raises:
        PrismError: The class order is recorded in a file that is damaged.
    """
    plans = [pipeline.plan(run, stage) for stage in pipeline.STAGES]
    findings = (
        *_units(run, [state for plan in plans for state in plan.states]),
        *_class_order(run),
        *_strays(run),
        *_labels(run),
        *_leftovers(run),
    )
    return VerificationReport({p.stage: (p.counts["done"], len(p.states)) for p in plans}, findings)


def clean(run: Run) -> int:
    """Remove what interrupted work has left, and return the number of files.

    Raises:
        PrismError: Somebody works on the run; what looks unfinished may be finished yet. Or files
            cannot be removed.
    """
    for lease in run.path.glob("locks/**/[!.]*.json"):
        if is_alive(lease):
            what = lease.relative_to(run.path / "locks").with_suffix("")
            raise PrismError(
                f"{what} of {run.path} is being worked on by {Owner.read(lease) or 'somebody'}; "
                "clean when that has ended"
            )
    found = list(_leftover_files(run))
    for path in found:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise PrismError(
                f"cannot remove {path}: {error.strerror or error}; it does no harm, clean where "
                "you may write to the run"
            ) from error
    return len(found)


def _units(run: Run, states: Sequence[UnitState]) -> Iterator[Finding]:
    remedy = f"prism-nb run --run {run.name} does it, and what it feeds, again"
    for state in states:
        if state.state not in {"done", "missing"}:
            where = f"{state.unit.stage} unit {state.unit.name}"
            yield Finding("damaged", where, f"{state.state}: {state.reason}", remedy)


def _class_order(run: Run) -> Iterator[Finding]:
    """Compare the recorded order of the classes with the dataset's, where that is at hand."""
    recorded = run.read_classes()
    if recorded is None:
        return
    try:
        dataset = open_dataset(run.settings)
    except PrismError as error:
        yield Finding(
            "not checked", "classes.json", f"class order: {error}", "verify where the dataset is"
        )
        return
    found = first_difference(recorded, dataset.class_records())
    if found is not None:
        index, mine, theirs = found
        yield Finding(
            "damaged",
            "classes.json",
            f"class {index} is {mine} here, and {theirs} in the dataset",
            "set data_dir to the dataset that the run was made from",
        )


def _strays(run: Run) -> Iterator[Finding]:
    """Find images that no finished unit lists; ImageFolder would read them all the same."""
    listed = {
        path for unit in pipeline.stage_units(run, "synthesis") for path in run.files_of(unit)
    }
    for method in run.settings.methods:
        folder = run.file(f"synthesis/{method}/images")
        on_disk = {p.relative_to(run.path).as_posix() for p in folder.glob("*/[!.]*")}
        for path in sorted(on_disk - listed):
            yield Finding(
                "stray",
                path,
                "no finished unit has made it",
                f"prism-nb run --run {run.name} finishes its unit; if none is missing, delete it",
            )


def _labels(run: Run) -> Iterator[Finding]:
    """Read the first and the last epoch of each finished method's labels beside its images."""
    if run.settings.labels != "stored" or run.read_classes() is None:
        return
    count = pipeline.class_count(run) * run.settings.ipc
    for method in run.settings.methods:
        unit = label_unit(run, method, pipeline.class_count(run))
        if run.inspect(unit, deep=False).state != "done":
            continue
        try:
            for epoch in {0, run.settings.label.epochs - 1}:
                LabelStore(run, method).load(epoch, torch.device("cpu"), count=count)
        except PrismError as error:
            yield Finding(
                "damaged",
                f"labels unit {method}",
                str(error),
                f"delete {unit.marker} and run prism-nb run --run {run.name}",
            )


def _leftovers(run: Run) -> Iterator[Finding]:
    for path in _leftover_files(run):
        yield Finding(
            "leftover",
            path.relative_to(run.path).as_posix(),
            "of a write or a process that was interrupted",
            f"harmless; prism-nb verify {run.name} --clean removes it",
        )


def _leftover_files(run: Run) -> Iterator[Path]:
    for pattern in _UNFINISHED:
        yield from filter(_is_still, list(run.path.rglob(pattern)))
    for piece in run.path.glob("labels/*/pieces/*.json"):
        if (piece.parents[1] / "unit.json").is_file():
            yield piece
    for lease in run.path.glob("locks/**/[!.]*.json"):
        if Owner.read(lease) is None or not is_alive(lease):
            yield lease


def _is_still(path: Path) -> bool:
    """Return whether nobody is writing a file just now, as a figure or the report may be."""
    return seconds_since_heartbeat(path) > _STILL and path.exists()
