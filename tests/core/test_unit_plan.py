"""Units of each stage: what they depend on, and what a replicate shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prism_nb.core import recipe as recipe_module
from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.unit_plan import diversity_units, relabel_units, student_units, synthesis_units
from prism_nb.core.units import ImageBatch, Unit, unit_seed
from prism_nb.data.augment import epoch_params
from prism_nb.data.small import Digits
from prism_nb.synthesis.init import initial_images

METHODS = ["prism", "gvbsm", "random_real", "rded"]


def replicate(number: int, **changes: Any) -> Settings:
    return load_settings("digits_quick", {"methods": METHODS, "replicate": number, **changes})


def run_of(folder: Path, number: int) -> Run:
    return Run.create(folder / str(number), replicate(number))


def bindings(units: list[Unit]) -> dict[str, str]:
    return {unit.name: unit.fingerprint for unit in units}


def test_replicates_share_networks_and_their_statistics(tmp_path: Path) -> None:
    zero, one = run_of(tmp_path, 0), run_of(tmp_path, 1)
    teachers = bindings(unit_plan.squeeze_units(zero, 10))
    assert teachers == bindings(unit_plan.squeeze_units(one, 10))
    assert len(teachers) == 5 + 4  # the holdout network has no part in gvbsm
    assert "test_resnet, convolution statistics" in teachers


@pytest.mark.parametrize(
    "units_of", [synthesis_units, diversity_units, relabel_units, student_units]
)
def test_replicates_share_nothing_else(tmp_path: Path, units_of: Any) -> None:
    zero, one = (bindings(units_of(run_of(tmp_path, number), 10)) for number in (0, 1))
    assert zero.keys() == one.keys()
    shared = {name for name in zero if zero[name] == one[name]}
    assert shared == ({REFERENCE} if units_of is diversity_units else set())


def test_replicates_draw_other_images_views_and_students() -> None:
    zero, again, one = replicate(0), replicate(0), replicate(1)
    digits, batch = Digits(32), ImageBatch((0, 3), (0, 2))

    def drawn(settings: Settings) -> list[torch.Tensor]:
        recipe, generator = settings.recipe_of("random_real"), torch.Generator()
        seed = settings.replicate_seed
        images = initial_images(recipe, batch, digits, list, seed=seed, generator=generator)
        views = vars(epoch_params(settings, 8, 0, torch.device("cpu"))).values()
        return [images, *views]

    assert all(map(torch.equal, drawn(zero), drawn(again)))
    images_differ, *views_differ = map(torch.ne, drawn(zero), drawn(one))
    assert images_differ.any()
    assert any(map(torch.any, views_differ))
    assert zero.replicate_seed == again.replicate_seed == unit_seed(0, "replicate", 0)


def test_convolution_statistics_are_shared_by_methods(tmp_path: Path) -> None:
    two = {"base": "gvbsm", "r_bn": 1.0}
    other = {"base": "gvbsm", "conv_patch_size": 4}
    settings = replicate(0, methods=["gvbsm", "two", "other"], recipes={"two": two, "other": other})
    units = unit_plan.squeeze_units(Run.create(tmp_path / "r", settings), 10)
    measured = [unit.params["patch"] for unit in units if "patch" in unit.params]
    assert measured == [16] * 4 + [4] * 4
    assert len({unit.marker for unit in units}) == len(units)
    assert len({unit.fingerprint for unit in units}) == len(units)


def test_groups_are_shared_by_methods_with_the_same_bn_teachers(tmp_path: Path) -> None:
    own = {"psm": {}, "weak": {"base": "psm", "r_bn": 0.1}, "prism_psm": {}}
    run = Run.create(tmp_path / "r", replicate(0, methods=list(own), recipes=own))
    one, pool = unit_plan.squeeze_units(run, 10)[5:]
    assert one.params["networks"] == ("test_resnet",)
    assert pool.params["networks"] == run.settings.teachers
    for method, groups in (("psm", one), ("weak", one), ("prism_psm", pool)):
        for unit in unit_plan.method_units(run, method, 10):
            assert unit.inputs[-1] == groups.marker
    assert unit_plan.groups_unit(replicate(0, ipc=3), "psm").fingerprint != one.fingerprint


def test_methods_depend_on_the_networks_they_use(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0)
    (unit, *_) = unit_plan.method_units(run, "gvbsm", 10)
    networks = run.settings.teachers
    assert set(unit.inputs) == {
        marker
        for name in networks
        for marker in (f"teachers/units/{name}.json", f"teachers/units/{name}.conv16.json")
    }
    (unit, *_) = unit_plan.method_units(run, "rded", 10)
    assert unit.inputs == ("teachers/units/test_resnet.json",)
    (unit, *_) = unit_plan.method_units(run, "random_real", 10)
    assert unit.inputs == ()


def test_a_new_recipe_field_leaves_old_images_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(Recipe):
        novelty: float = 0.0

    def fingerprint(**changes: Any) -> str:
        return unit_plan.method_fingerprint(replicate(0, recipe=changes), "prism")

    before, other = fingerprint(), fingerprint(lr=0.3)
    assert before != other
    for module in (recipe_module, unit_plan):
        monkeypatch.setattr(module, "Recipe", Wider)
    assert (fingerprint(), fingerprint(lr=0.3)) == (before, other)
    assert fingerprint(novelty=1.0) not in {before, other}


def test_tuned_students_are_others_of_one_method_alone(tmp_path: Path) -> None:
    plain, tuned = (
        bindings(student_units(Run.create(tmp_path / str(len(own)), replicate(0, **own)), 10))
        for own in ({}, {"tuned_students": {"rded": {"student_lr": 0.5}}})
    )
    assert plain.keys() == tuned.keys()
    assert {name.split("/")[0] for name in plain if plain[name] != tuned[name]} == {"rded"}


@pytest.mark.parametrize(
    ("layout", "first"),
    [
        ("cross_class", ImageBatch((0, 1), (0, 10))),
        ("class_wise", ImageBatch((0, 4), (0, 1))),
        ("class_major", ImageBatch((0, 4), (0, 2))),
    ],
)
def test_units_follow_the_recipes_batches(tmp_path: Path, layout: str, first: ImageBatch) -> None:
    settings = replicate(
        0, methods=["prism"], recipes={"prism": {"batches": layout}}, ipc=4, batch_size=10
    )
    units = unit_plan.synthesis_units(Run.create(tmp_path / "r", settings), 10)
    assert unit_plan.batch_of(units[0]) == first
