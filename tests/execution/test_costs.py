"""Forecasts: every step of every unit is counted, with the networks that it will really run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_store import UnitState
from prism_nb.core.units import Unit
from prism_nb.data.registry import open_dataset
from prism_nb.execution import cost, pipeline
from prism_nb.execution.cost import StepTimer, TeacherUse
from prism_nb.synthesis.teacher_sampling import teacher_schedule

SECONDS = {"test_resnet": 1.0, "test_efficientnet": 10.0, "test_byobnet": 100.0}
REST, VIEW, IMAGE = 0.5, 0.25, 0.125


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give everything that would be measured a price."""

    def part(_: StepTimer, recipe: Recipe, part: TeacherUse, size: int) -> float:
        name, gives_logits, matches_stats = part
        return VIEW + SECONDS[name] * (1 + gives_logits + 2 * matches_stats)

    monkeypatch.setattr(StepTimer, "_part_cost", part)
    monkeypatch.setattr(StepTimer, "_bare_cost", lambda *_: (REST, VIEW))
    monkeypatch.setattr(StepTimer, "_image_cost", lambda _: IMAGE)


def run_of(folder: Path, **changes: Any) -> Run:
    values = {"teachers": list(SECONDS), "batch_size": 30, "ipc": 6, "device": "cpu", **changes}
    return Run.create(folder / "r", load_settings("digits_quick", values))


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("prism", {"iterations": 6, "bn_slot_prob": 0.5}),
        ("prism_intra", {"iterations": 7, "resample_every": 2}),
        ("gvbsm", {"iterations": 5}),
        ("delt", {"iterations": 6, "delt_start_gap": 2, "delt_groups": 3, "init": "noise"}),
        ("prism", {"iterations": 6, "early_late_step": 1}),
        ("random_real", {}),
    ],
)
def test_a_unit_costs_what_its_steps_cost(
    method: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = run_of(tmp_path, methods=[method], recipes={method: recipe})
    timer = StepTimer(run.settings, open_dataset(run.settings))
    for unit in unit_plan.synthesis_units(run, 10):
        batch = unit_plan.batch_of(unit)
        members = batch.members()
        expected = IMAGE * len(members)
        whole = run.settings.recipe_of(method).for_image_index(batch.image_indices[0])
        steps = whole.iterations if whole.images == "optimized" else 0
        draws = teacher_schedule(run.settings, method, batch)
        for step in range(steps):
            active = [m for m in members if whole.start_step(m[1], 6) <= step]
            logit_teachers, bn_teachers = draws.logit_teachers_at(step), draws.at(step)
            price = REST + sum(
                SECONDS[n] * (1 + (n in logit_teachers) + 2 * (n in bn_teachers))
                for n in set(logit_teachers) | set(bn_teachers)
            )
            expected += price * len(active) / len(members) if active else 0.0
        assert timer.unit_seconds(method, batch) == pytest.approx(expected)


def test_each_kind_of_step_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[int] = []

    def seconds(device: torch.device, work: Callable[[], object]) -> float:
        work()  # it must run
        times.append(1)
        return 1.0

    monkeypatch.setattr(cost, "benchmark", seconds)
    run = run_of(tmp_path, methods=["prism"], recipe={"iterations": 40}, image_size=16)
    first = cost.synthesis_seconds(run, unit_plan.synthesis_units(run, 10))
    assert len(first) == 2
    # Saving, the step and its view, the primary in both roles, and two networks that align.
    assert len(times) <= 3 + 3


def test_a_network_without_bn_that_counts_costs_next_to_nothing() -> None:
    settings = load_settings(
        "digits_quick",
        {
            "teachers": ["resnet18", "alexnet"],
            "primary": "resnet18",
            "methods": ["prism_reference"],
            "recipes": {"prism_reference": {"iterations": 2, "early_late_step": 0}},
            "image_size": 64,
            "batch_size": 10,
            "device": "cpu",
        },
    )
    timer = StepTimer(settings, open_dataset(settings))
    recipe = settings.recipe_of("prism_reference")
    counted = timer._part_cost(recipe, ("alexnet", False, True), 4)
    run = timer._part_cost(recipe, ("resnet18", True, True), 4)
    assert 0 < counted < run


def test_a_method_is_not_scaled_by_anothers_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, methods=["random_real", "prism"], ipc=3)
    units = unit_plan.synthesis_units(run, 10)
    monkeypatch.setattr(cost, "synthesis_seconds", lambda _, asked: [2.0] * len(asked))
    states = iter(
        UnitState(u, "done" if u.params["method"] == "random_real" else "missing", "")
        for u in units
    )
    monkeypatch.setattr(Run, "inspect", lambda *_, **__: next(states))
    monkeypatch.setattr(Run, "record", lambda *_: {"seconds": 500.0})
    left = sum(unit.params["method"] == "prism" for unit in units)
    assert pipeline.plan(run, "synthesis", measure=True).seconds_left == 2.0 * left > 0


def test_a_plan_follows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, methods=["prism"], ipc=9)
    units = unit_plan.synthesis_units(run, 10)
    assert len(units) == 3

    def prices(_: Run, asked: list[Unit]) -> list[float]:
        return [float(1 + asked.index(unit)) for unit in asked]

    monkeypatch.setattr(cost, "synthesis_seconds", prices)
    assert pipeline.plan(run, "synthesis", measure=True).seconds_left == 6.0
    assert pipeline.plan(run, "synthesis").seconds_left is None
    states = [
        UnitState(unit, "done" if place < 2 else "missing", "") for place, unit in enumerate(units)
    ]
    found = iter(states * 2)
    monkeypatch.setattr(Run, "inspect", lambda *_, **__: next(found))
    monkeypatch.setattr(Run, "record", lambda *_: {"seconds": 6.0})
    # Units foreseen to take 1 and 2 took 6 each, so one of 3 will take 12.
    assert pipeline.plan(run, "synthesis", measure=True).seconds_left == pytest.approx(12.0)
    assert pipeline.plan(run, "synthesis").seconds_left == pytest.approx(6.0)


@pytest.mark.parametrize("stage", ["squeeze", "relabel", "evaluation"])
def test_other_stages_are_measured_by_real_steps(stage: str, tmp_path: Path) -> None:
    shared = {
        "methods": ["random_real"],
        "image_size": 16,
        "ipc": 2,
        "holdout_networks": ["test_mambaout"],
    }
    short = run_of(tmp_path / "short", **shared, squeeze_epochs=1, label_epochs=1)
    long = run_of(tmp_path / "long", **shared, squeeze_epochs=5000, label_epochs=5000)
    little, much = (pipeline.plan(run, stage, measure=True).seconds_left for run in (short, long))
    assert little is not None
    assert much is not None
    assert much > 5 * little > 0
