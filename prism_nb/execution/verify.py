"""Verification of a run: whether its units, class order and labels can be trusted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import label_unit
from prism_nb.core.unit_store import UnitState
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import LabelStore
from prism_nb.execution import pipeline

_QUIET_SECONDS = 60.0  # a temporary file that changed later may be in use


@dataclass(frozen=True)
class Finding:
    """A problem of a run."""

    kind: Literal["damaged", "not checked"]  # not to be trusted, or something needed is missing
    where: str  # the unit, or a path relative to the run
    what: str
    remedy: str


@dataclass(frozen=True)
class VerificationReport:
    """Result of verifying a run."""

    intact: dict[str, tuple[int, int]]  # by stage, complete and undamaged units, and all units
    findings: tuple[Finding, ...]

    @property
    def damages(self) -> int:
        """Number of findings of damage."""
        return sum(each.kind == "damaged" for each in self.findings)


def verify_run(run: Run) -> VerificationReport:
    """Check markers, file hashes, class order, and labels against images; write nothing.

    Raises:
        PrismError: The recorded class order is damaged.
    """
    stages = [pipeline.state(run, stage) for stage in pipeline.STAGES]
    states = [state for stage in stages for state in stage.states]
    findings = (*_check_units(run, states), *_check_class_order(run), *_check_labels(run))
    return VerificationReport(
        {p.stage: (p.counts["done"], len(p.states)) for p in stages}, findings
    )


def clean(run: Run) -> int:
    """Remove temporary files of interrupted writes, and return their number."""
    before = time.time() - _QUIET_SECONDS
    found = [path for path in run.path.rglob(".*.part") if path.stat().st_mtime < before]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _check_units(run: Run, states: Sequence[UnitState]) -> Iterator[Finding]:
    remedy = f"prism-nb run --run {run.name} does it again, and what depends on it"
    for state in states:
        if state.state not in {"done", "missing"}:
            where = f"{state.unit.stage} unit {state.unit.name}"
            yield Finding("damaged", where, f"{state.state}: {state.reason}", remedy)


def _check_class_order(run: Run) -> Iterator[Finding]:
    if run.read_classes() is None:
        return
    try:
        classes = open_dataset(run.settings).class_records()
    except PrismError as error:
        what, remedy = f"class order: {error}", "verify where the dataset is"
        yield Finding("not checked", "classes.json", what, remedy)
        return
    try:
        run.write_classes(classes)  # which only compares recorded ones
    except PrismError as error:
        remedy = "set data_dir to the dataset that the run was made from"
        yield Finding("damaged", "classes.json", str(error), remedy)


def _check_labels(run: Run) -> Iterator[Finding]:
    """Check the first and the last epoch of each finished method's labels against its images."""
    if run.settings.labels != "stored" or run.read_classes() is None:
        return
    classes = pipeline.class_count(run)
    for method in run.settings.methods:
        unit = label_unit(run, method, classes)
        if not run.units.is_done(unit, verify_hashes=False):
            continue
        store = LabelStore(run, method)
        try:
            for epoch in {0, run.settings.label.epochs - 1}:
                store.load(epoch, torch.device("cpu"))
        except PrismError as error:
            remedy = f"delete {unit.marker} and run prism-nb run --run {run.name}"
            yield Finding("damaged", f"labels unit {method}", str(error), remedy)
