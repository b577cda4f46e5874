"""The synthesis stage: every method, its records and losses, and units that are interrupted."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_nb.core import fileio, unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.device import seeded
from prism_nb.core.errors import PrismError
from prism_nb.core.recipe import RECIPES, load_recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_store import UnitStore
from prism_nb.core.units import Unit
from prism_nb.data.registry import open_dataset
from prism_nb.models import squeeze
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.difficulty import class_statistics, difficulty_groups, group_targets
from prism_nb.models.layer_stats import MeanVar, conv_layer_stats
from prism_nb.models.pool import load_groups, untrained_teacher
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis import init, stage
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.stage import LossLogger
from prism_nb.synthesis.teacher_sampling import teacher_schedule

CPU = torch.device("cpu")
PATCH = 4
SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": ["test_mambaout"],
    "squeeze_epochs": 1,
    "squeeze_batch": 256,
    "image_size": 16,
    "ipc": 2,
    "device": "cpu",
}

# -- every method ------------------------------------------------------------------------------

RECIPES = {name: load_recipe(name) for name in RECIPES.names()}
NAMES = [name for name, recipe in RECIPES.items() if recipe.image_source != "imported"]
OWN = {
    "delt": {"delt_start_gap": 1, "delt_groups": 2, "init": "real_median"},
    "cvdd": {"init": "patches"},
    "edc": {"init": "patches"},
    "rded": {"crop_min": 0.5},
    "fadrm": {"init": "patches", "iterations": 4},
    "fadrm_plus": {"init": "patches", "iterations": 4},
    "reta": {"init": "patches", "iterations": 4},
    "psm": {"init": "real"},
    "prism_class": {"init": "herding"},
    "cim": {"init": "mosaic"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of all methods whose networks are trained a little."""
    shared = {"iterations": 3, "conv_patch_size": PATCH}
    changes = {"methods": NAMES, "batch_size": 30, "recipe": shared, "recipes": OWN}
    settings = load_settings("digits_quick", {**SMALL, **changes})
    made = Run.create(tmp_path_factory.mktemp("runs") / "all", settings)
    for unit in unit_plan.squeeze_units(made, 10):
        squeeze.run_unit(made, unit, lambda event: None)
    return made


def images_of(run: Run, method: str, *, again: bool = False) -> dict[str, bytes]:
    """Return the files of a method's images by path, after making them where needed."""
    for unit in unit_plan.method_units(run, method, 10):
        if again or not run.units.is_done(unit):
            stage.run_unit(run, unit, lambda event: None)()
        assert run.units.is_done(unit)
    folder = run.path / "synthesis" / method / "images"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("method", NAMES)
def test_a_method_makes_every_image_and_the_same_ones_again(trained: Run, method: str) -> None:
    images = images_of(trained, method)
    assert list(images) == [f"{c:05d}/{c:05d}_{k:04d}.png" for c in range(10) for k in range(2)]
    assert len(set(images.values())) == 20
    assert images_of(trained, method, again=True) == images
    other = NAMES[NAMES.index(method) - 1]
    assert images_of(trained, other) != images


def test_records_hold_the_teachers_of_a_unit(trained: Run) -> None:
    images_of(trained, "gvbsm")
    for unit in unit_plan.method_units(trained, "gvbsm", 10):
        record = trained.units.record(unit)
        assert record["draws"]["resample_every"] == 1
        assert record["draws"]["bn_teachers"] == [["test_resnet"], ["test_byobnet"]]
        assert {n for n in record["losses"] if n.startswith("logit/")} == {"logit/test_resnet"}
        assert "density/images" in record["losses"]
        assert sum(record["bn_loss_shares"].values()) == pytest.approx(1)
    images_of(trained, "rded")
    for unit in unit_plan.method_units(trained, "rded", 10):
        assert "losses" not in trained.units.record(unit)


def test_image_indices_have_the_targets_and_first_images_of_their_groups(trained: Run) -> None:
    groups, dataset = load_groups(trained, "psm"), open_dataset(trained.settings)
    for index, unit in enumerate(unit_plan.method_units(trained, "psm", 10)):
        start, batch = init.prepare_unit(trained, unit), unit_plan.batch_of(unit)
        assert batch.image_indices == (index, index + 1)
        real = dataset.images("train", groups["images"][:, index].tolist())
        assert torch.equal(start.images, dataset.normalize(real))
        schedule = teacher_schedule(trained.settings, "psm", batch)
        (matcher,) = stage._build_matchers(trained, unit, schedule, start).values()
        targets = group_targets(groups, matcher.runner.teacher, index)
        for found, target in zip(matcher.real_stats.values(), targets, strict=True):
            assert all(map(torch.equal, found, target))


def test_units_of_a_class_have_its_targets(trained: Run) -> None:
    groups = load_groups(trained, "prism_class")
    for c, unit in enumerate(unit_plan.method_units(trained, "prism_class", 10)):
        start, batch = init.prepare_unit(trained, unit), unit_plan.batch_of(unit)
        assert batch.members() == [(c, 0), (c, 1)]
        schedule = teacher_schedule(trained.settings, "prism_class", batch)
        for matcher in stage._build_matchers(trained, unit, schedule, start).values():
            targets = group_targets(groups, matcher.runner.teacher, c)
            for found, target in zip(matcher.real_stats.values(), targets, strict=True):
                assert all(map(torch.equal, found, target))


# -- losses ------------------------------------------------------------------------------------

UNIT = Unit(stage="synthesis", name="m/u", marker="m", fingerprint="b")


class Step:
    """The step counter of an optimizer."""

    def __init__(self, total_steps: int) -> None:
        self.step, self.total_steps = 0, total_steps


def logged(steps: int, *, restart_at: int | None = None) -> tuple[LossLogger, list[dict[str, Any]]]:
    """Let four networks take turns; network k has loss k + 1 at every step."""
    events: list[dict[str, Any]] = []
    logger, optimizer = LossLogger(UNIT, events.append), Step(steps)
    for step in range(steps):
        if step == restart_at:
            state = logger.state_dict()
            logger = LossLogger(UNIT, events.append)
            logger.load_state_dict(state)
        optimizer.step = step + 1
        loss = torch.tensor(float(1 + step % 4), requires_grad=True)
        logger(optimizer, {f"bn/{'abcd'[step % 4]}": loss})  # type: ignore[arg-type]
    return logger, events


@pytest.mark.parametrize("restart_at", [None, 3, 402])
def test_losses_are_means_over_all_steps(restart_at: int | None) -> None:
    logger, events = logged(800, restart_at=restart_at)  # every eighth step is logged
    assert len(events) == 100
    assert events[0]["losses"] == {"bn/a": 1.0, "bn/b": 2.0, "bn/c": 3.0, "bn/d": 4.0}
    expected = {f"bn/{n}": 200.0 * (i + 1) for i, n in enumerate("abcd")}
    assert logger.sums == pytest.approx(expected)
    assert logged(250)[1][-1]["step"] == 250
    shares = logger.bn_loss_shares({"a": 4.0, "b": 1.0, "c": 1.0, "d": 0.0})
    assert shares == pytest.approx({"a": 4 / 9, "b": 2 / 9, "c": 3 / 9, "d": 0.0})


def test_a_loss_that_is_not_finite_ends_the_unit() -> None:
    optimizer = Step(10)
    optimizer.step = 1
    with pytest.raises(PrismError, match=r"unit m/u diverged: bn/a is nan at step 1; lower lr"):
        LossLogger(UNIT, lambda _: None)(optimizer, {"bn/a": torch.tensor(float("nan"))})  # type: ignore[arg-type]


# -- interrupted units -------------------------------------------------------------------------

STEPS = 5
METHODS: dict[str, dict[str, Any]] = {
    "prism": {"beta1": 0.5, "views": "per_image"},
    "prism_intra": {"resample_every": 2, "bn_slot_prob": 0.5},
    "delt": {"delt_start_gap": 2, "delt_groups": 2, "init": "noise"},
    "gvbsm": {"conv_drop_prob": 0.4},
    "prism_psm": {"init": "real"},
    "prism_class": {"init": "real"},
    "reta": {"init": "patches"},
    "cim": {"init": "mosaic"},
}
SHORT = {"iterations": STEPS, "conv_patch_size": 4, "crop_min": 0.5, "jitter": 2, "flip": True}
SETTINGS = {**SMALL, "methods": list(METHODS), "batch_size": 8, "recipe": SHORT, "recipes": METHODS}


class KilledError(Exception):
    """Ends a process."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of several methods, with untrained networks and a checkpoint at every step."""
    honest = Checkpoint.__init__

    def impatient(self: Checkpoint, path: Path, fingerprint: str, *, every: float) -> None:
        honest(self, path, fingerprint, every=every if every == math.inf else 0.0)

    monkeypatch.setattr(Checkpoint, "__init__", impatient)
    for module in (stage, init):
        monkeypatch.setattr(module, "load_teacher", lambda run, name: _teacher(name))
        monkeypatch.setattr(module, "load_groups", _groups)
    monkeypatch.setattr(stage, "load_conv_targets", lambda run, *which: _targets(*which))
    return Run.create(tmp_path / "all", load_settings("digits_quick", SETTINGS))


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


@cache
def _groups(_: Run, method: str) -> dict[str, Tensor]:
    teachers = [_teacher(name) for name in SMALL["teachers"]]
    dataset = open_dataset(load_settings("digits_quick", SMALL))
    if RECIPES[method].targets == "class":
        return class_statistics(teachers, dataset, CPU)
    return difficulty_groups(teachers, dataset, 2, CPU)


def unit_of(run: Run, method: str) -> Unit:
    return unit_plan.method_units(run, method, 10)[0]


def kept(run: Run, unit: Unit) -> Path:
    return run.file(unit.marker.replace(".json", ".checkpoint"))


def make(run: Run, unit: Unit, *, dies_at: int | None = None) -> list[int]:
    """Make a unit; return the steps that were taken."""
    steps: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] != "step":
            return
        if event["step"] == dies_at:
            raise KilledError
        steps.append(event["step"])

    stage.run_unit(run, unit, listen)()
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


@pytest.mark.parametrize("harm", ["torn", "empty", "foreign", "other inputs"])
def test_state_that_is_torn_or_of_other_work_is_not_gone_on_from(
    run: Run, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, other = unit_of(run, "prism"), unit_of(run, "prism_intra")
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
        monkeypatch.setattr(UnitStore, "inputs_hash", lambda self, markers: "changed")
    assert make(run, unit) == list(range(1, STEPS + 1))
    assert not path.exists()


def test_no_state_is_kept_where_none_is_wanted(run: Run) -> None:
    plain = {**run.settings.plain(), "checkpoint_interval_min": 0}
    unkept = Run(run.path, type(run.settings).parse(plain, where="test"))
    unit = unit_of(run, "prism_intra")
    with pytest.raises(KilledError):
        make(unkept, unit, dies_at=4)
    assert not kept(run, unit).exists()
    assert make(unkept, unit) == list(range(1, STEPS + 1))


def test_unit_that_has_run_out_of_memory_goes_on_in_the_same_parts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, honest = unit_of(run, "prism"), MicroBatchedBackward._forward_backward
    tight = {"after": 3, "calls": 0}

    def cramped(self: MicroBatchedBackward, *args: Any, **options: Any) -> Any:
        tight["calls"] += 1
        if tight["calls"] > tight["after"] and not self.micro_batch_size:
            raise torch.OutOfMemoryError("out of memory")
        return honest(self, *args, **options)

    monkeypatch.setattr(MicroBatchedBackward, "_forward_backward", cramped)
    make(run, unit)
    expected = results(run, unit)
    assert expected[1]["micro_batch_size"] == 3  # half of five images
    tight["calls"] = 0
    with pytest.raises(KilledError):
        make(run, unit, dies_at=5)
    tight["after"] = 10**6  # there is enough memory now
    assert make(run, unit) == [5]
    assert results(run, unit) == expected
