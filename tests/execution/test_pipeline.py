"""The time that is left of a stage, at the pace of what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.recipe import RECIPES
from prism_nb.core.run import Run
from prism_nb.execution.pipeline import relative_cost, seconds_left
from prism_nb.synthesis.teacher_sampling import teacher_schedule

POOL = ["test_resnet", "test_byobnet", "test_efficientnet"]
COSTS = {"a": 100.0, "b": 300.0, "c": 50.0}


@pytest.mark.parametrize(
    ("progress", "measured", "expected"),
    [
        ({}, False, None),
        ({}, True, 450.0),
        (dict.fromkeys(COSTS, (1.0, 7.0)), False, 0.0),
        ({"a": (0.0, 3.0)}, False, None),
        ({"a": (1.0, 10.0), "c": (0.5, 15.0)}, True, 325.0 / 125.0 * 25.0),
    ],
)
def test_time_left_goes_by_the_pace_of_what_is_done(
    progress: dict[str, tuple[float, float]], measured: bool, expected: float | None
) -> None:
    assert seconds_left(COSTS, progress, measured=measured) == pytest.approx(expected)


@pytest.mark.parametrize("method", [n for n in RECIPES.names() if n != "imported"])
def test_costs_are_images_times_steps_times_networks(method: str, tmp_path: Path) -> None:
    values = {"teachers": POOL, "batch_size": 30, "ipc": 6, "methods": [method]}
    own: dict[str, Any] = {"iterations": 400, "resample_every": 1}
    if method == "delt":
        own["delt_start_gap"] = 10
    if method == "reta":
        own["init"] = "patches"
    if method == "cim":
        own["init"] = "mosaic"
    if RECIPES.read(method).get("selection", "pre") == "pre":
        own["selection"] = "intra"  # many draws, whose mean is compared
    settings = load_settings("digits_quick", {**values, "recipe": own})
    recipe = settings.recipe_of(method)
    units = unit_plan.synthesis_units(Run(tmp_path, settings), 10)
    images, expected = 0, 0.0
    passes = 4 * 0.75 if method == "cim" else 1.0  # of half a network, three for each of four tiles
    for unit in units:
        batch = unit_plan.batch_of(unit)
        images += len(batch.members())
        if recipe.image_source != "optimized":
            expected += len(batch.members())
            continue
        schedule = teacher_schedule(settings, method, batch)
        for _, index in batch.members():
            own_recipe = recipe.for_image_index(index)
            for step in range(own_recipe.start_step(index, settings.ipc), own_recipe.iterations):
                bn, logits = schedule.bn_teachers_at(step), schedule.logit_teachers_at(step)
                expected += len({*bn, *logits}) * recipe.mean_area * passes
    found = sum(relative_cost(settings, unit) for unit in units)
    assert images == 60
    assert found == pytest.approx(expected, rel=0.1)  # slots in a pool of three fill up
