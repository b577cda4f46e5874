"""A unit that was interrupted goes on, and its images are those of an undisturbed one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_nb.core import fileio, unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.device import seeded
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.data.registry import open_dataset
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.layer_stats import MeanVar, conv_layer_stats
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis import micro_batch as gradient_module
from prism_nb.synthesis import stage as synthesis_work
from prism_nb.synthesis.micro_batch import MicroBatchedBackward

CPU = torch.device("cpu")
STEPS = 5
SHORT = {"iterations": STEPS, "conv_patch_size": 4, "crop_min": 0.5, "jitter": 2, "flip": True}
METHODS: dict[str, dict[str, Any]] = {
    "prism": {"beta1": 0.5, "views": "per_image"},
    "prism_intra": {"resample_every": 2, "bn_slot_prob": 0.5},
    "cda": {},
    "delt": {"delt_start_gap": 2, "delt_groups": 2, "init": "noise"},
    "gvbsm": {"conv_drop_prob": 0.4},
    "edc": {"init": "noise"},
}
SETTINGS: dict[str, Any] = {
    "methods": list(METHODS),
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": ["test_mambaout"],
    "squeeze_epochs": 1,
    "squeeze_batch": 256,
    "image_size": 16,
    "batch_size": 8,
    "ipc": 2,
    "device": "cpu",
    "recipe": SHORT,
    "recipes": METHODS,
}


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of several methods; its networks are made up."""
    return Run.create(tmp_path / "all", load_settings("digits_quick", SETTINGS))


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the state at every step."""
    honest = Checkpoint.__init__

    def impatient(self: Checkpoint, path: Path, fingerprint: str, *, every: float) -> None:
        honest(self, path, fingerprint, every=0.0)

    monkeypatch.setattr(Checkpoint, "__init__", impatient)
    monkeypatch.setattr(synthesis_work, "load_teacher", lambda run, name: _teacher(name))
    monkeypatch.setattr(synthesis_work, "load_conv_targets", lambda run, *which: _targets(*which))


@cache
def _teacher(name: str) -> Teacher:
    """Make up a network; nothing of it changes."""
    settings = load_settings("digits_quick", SETTINGS)
    with seeded(0, CPU):
        return untrained_teacher(name, open_dataset(settings), CPU)


@cache
def _targets(name: str, patch: int) -> dict[str, MeanVar]:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network = _teacher(name)
    probes = conv_layer_stats(network.network, patch)
    with torch.no_grad():
        seen = network.stats_only(images, probes)
    return {p.name: MeanVar(*s) for p, s in zip(probes, seen, strict=True)}


def unit_of(run: Run, method: str) -> Unit:
    return unit_plan.method_units(run, method, 10)[0]


def kept(run: Run, unit: Unit) -> Path:
    return run.file(unit.marker.replace(".json", ".checkpoint.safetensors"))


def make(run: Run, unit: Unit, *, dies_at: int | None = None) -> list[int]:
    """Make a unit; return the steps that were taken."""
    steps: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["step"] == dies_at:
            raise KilledError
        steps.append(event["step"])

    synthesis_work.run_unit(run, unit, listen)()
    return steps


def results(run: Run, unit: Unit) -> Any:
    """Return a unit's hashes and what it recorded, but for the time it took."""
    marker = fileio.read_json(run.file(unit.marker))
    return marker["files"], {k: v for k, v in marker["record"].items() if k != "seconds"}


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_unit_equals_an_undisturbed_one(run: Run, method: str) -> None:
    unit = unit_of(run, method)
    whole = make(run, unit)
    expected = results(run, unit)
    assert whole[-1] == STEPS
    for step in (whole[1], whole[-1]):  # it dies in this step, once the one before is kept
        run.file(unit.marker).unlink()
        with pytest.raises(KilledError):
            make(run, unit, dies_at=step)
        assert kept(run, unit).exists()
        assert make(run, unit) == list(range(step, STEPS + 1))
        assert results(run, unit) == expected
        assert not kept(run, unit).exists()


def test_unit_that_is_killed_again_and_again_equals_an_undisturbed_one(run: Run) -> None:
    unit = unit_of(run, "gvbsm")
    make(run, unit)
    expected = results(run, unit)
    for step in range(2, STEPS + 1):
        run.file(unit.marker).unlink(missing_ok=True)
        with pytest.raises(KilledError):
            make(run, unit, dies_at=step)
    assert make(run, unit) == [STEPS]
    assert results(run, unit) == expected


@pytest.mark.parametrize("harm", ["torn", "empty", "foreign", "other inputs"])
def test_state_that_is_torn_or_of_other_work_is_not_gone_on_from(
    run: Run, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, other = unit_of(run, "prism"), unit_of(run, "cda")
    with pytest.raises(KilledError):
        make(run, unit, dies_at=4)
    path = kept(run, unit)
    content = path.read_bytes()
    if harm == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "foreign":
        with pytest.raises(KilledError):
            make(run, other, dies_at=4)
        kept(run, other).replace(path)
    else:
        monkeypatch.setattr(Run, "content", lambda self, markers: "changed")
    assert make(run, unit) == list(range(1, STEPS + 1))
    assert not path.exists()


def test_no_state_is_kept_where_none_is_wanted(run: Run) -> None:
    plain = {**run.settings.plain(), "checkpoint_interval_min": 0}
    unkept = Run(run.path, type(run.settings).parse(plain, where="test"))
    unit = unit_of(run, "cda")
    with pytest.raises(KilledError):
        make(unkept, unit, dies_at=4)
    assert not kept(run, unit).exists()
    assert make(unkept, unit) == list(range(1, STEPS + 1))


def test_unit_that_has_run_out_of_memory_goes_on_in_the_same_parts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, honest = unit_of(run, "prism"), MicroBatchedBackward._try
    tight = {"after": 3, "calls": 0}

    def cramped(
        self: MicroBatchedBackward, groups: Any, views: Any, labels: Any, *names: Any
    ) -> Any:
        tight["calls"] += 1
        if tight["calls"] > tight["after"] and not self.part:
            raise torch.OutOfMemoryError("out of memory")
        return honest(self, groups, views, labels, *names)

    monkeypatch.setattr(gradient_module.MicroBatchedBackward, "_try", cramped)
    make(run, unit)
    expected = results(run, unit)
    assert expected[1]["micro_batch_size"] == 3  # half of five images
    tight["calls"] = 0
    with pytest.raises(KilledError):
        make(run, unit, dies_at=5)
    tight["after"] = 10**6  # there is enough memory now
    assert make(run, unit) == [5]
    assert results(run, unit) == expected
