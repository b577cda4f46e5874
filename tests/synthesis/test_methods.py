"""Every method of the kit makes its images from the networks of a small run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.core.recipe import load_recipe, recipe_names
from prism_nb.core.run import Run
from prism_nb.core.units import unit_seed
from prism_nb.data.registry import open_dataset
from prism_nb.models import squeeze as teachers_work
from prism_nb.models.layer_stats import conv_layer_stats
from prism_nb.models.pool import load_conv_targets, load_teacher
from prism_nb.models.train import collect_conv_stats
from prism_nb.synthesis import stage as synthesis_work

PATCH = 4
WHOLE = {name: load_recipe(name) for name in recipe_names()}
NAMES = [n for n, r in WHOLE.items() if r.batches != "class_wise" and r.images != "imported"]
JOINING = {"delt": {"delt_start_gap": 1, "delt_groups": 2, "init": "real_median"}}
INITIAL = {"cvdd": {"init": "patches"}, "edc": {"init": "patches"}, "rded": {"crop_min": 0.5}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of all methods whose networks are trained a little."""
    settings = load_settings(
        "digits_quick",
        {
            "methods": NAMES,
            "teachers": ["test_resnet", "test_byobnet"],
            "squeeze_epochs": 1,
            "squeeze_batch": 256,
            "image_size": 16,
            "batch_size": 30,
            "ipc": 2,
            "device": "cpu",
            "recipe": {"iterations": 3, "conv_patch_size": PATCH},
            "recipes": {**JOINING, **INITIAL},
        },
    )
    made = Run.create(tmp_path_factory.mktemp("runs") / "all", settings)
    for unit in unit_plan.squeeze_units(made, 10):
        teachers_work.run_unit(made, unit, lambda event: None)
    return made


def images_of(run: Run, method: str) -> dict[str, bytes]:
    """Return the files of a method's images by path; they are made where they are not there."""
    for unit in unit_plan.method_units(run, method, 10):
        if run.inspect(unit).state != "done":
            synthesis_work.run_unit(run, unit, lambda event: None)()
        assert run.inspect(unit).state == "done"
    folder = run.path / "synthesis" / method / "images"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("method", NAMES)
def test_a_method_makes_every_image_and_the_same_ones_again(run: Run, method: str) -> None:
    images = images_of(run, method)
    assert list(images) == [f"{c:05d}/{c:05d}_{s:04d}.png" for c in range(10) for s in range(2)]
    assert len(set(images.values())) == 20
    for unit in unit_plan.method_units(run, method, 10):
        synthesis_work.run_unit(run, unit, lambda event: None)()
    assert images_of(run, method) == images


def test_methods_make_different_images(run: Run) -> None:
    made = {method: tuple(images_of(run, method).values()) for method in NAMES}
    assert len(set(made.values())) == len(NAMES)


def records_of(run: Run, method: str) -> list[dict[str, Any]]:
    images_of(run, method)
    return [run.record(unit) for unit in unit_plan.method_units(run, method, 10)]


def test_records_hold_who_steered_a_unit(run: Run) -> None:
    for record in records_of(run, "gvbsm"):
        assert record["draws"]["resample_every"] == 1
        assert record["draws"]["bn_teachers"] == [["test_resnet"], ["test_byobnet"]]
        assert {n for n in record["losses"] if n.startswith("logit/")} == {"logit/test_resnet"}
        assert "density/images" in record["losses"]
        assert sum(record["bn_loss_shares"].values()) == pytest.approx(1)
    for record in records_of(run, "rded"):
        assert "losses" not in record
        assert record["images"] == 20


def test_stored_targets_are_what_the_trained_network_sees(run: Run) -> None:
    name, cpu = "test_byobnet", torch.device("cpu")
    teacher, stored = load_teacher(run, name), load_conv_targets(run, name, PATCH)
    plan, seed = run.settings.squeeze, unit_seed(run.settings.seed, "squeeze", name)
    probes = conv_layer_stats(teacher.network, PATCH)
    measured = collect_conv_stats(teacher, probes, open_dataset(run.settings), plan, cpu, seed=seed)
    assert set(stored) == set(measured) == {probe.name for probe in probes}
    for probe in measured:
        assert torch.equal(stored[probe].mean, measured[probe].mean)
        assert torch.equal(stored[probe].var, measured[probe].var)


def test_targets_that_are_not_measured_are_asked_for(tmp_path: Path) -> None:
    fresh = Run.create(tmp_path / "r", load_settings("digits_quick", {"methods": ["gvbsm"]}))
    with pytest.raises(PrismError, match="convolution statistics.*run the teachers stage first"):
        load_conv_targets(fresh, "test_resnet", 16)


def test_targets_that_are_damaged_are_refused(run: Run) -> None:
    unit = unit_plan.statistics_unit(run.settings, "test_resnet", PATCH)
    path = run.file(unit.params["statistics"])
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    try:
        with pytest.raises(PrismError, match="run the teachers stage"):
            load_conv_targets(run, "test_resnet", PATCH)
    finally:
        path.write_bytes(content)
    assert load_conv_targets(run, "test_resnet", PATCH)


def test_all_units_of_a_slot_share_the_published_programs_draw(run: Run) -> None:
    changes = {"methods": ["prism_reference", "prism"], "recipes": {}, "batch_size": 2, "ipc": 2}
    shared = {"iterations": 1, "early_late_step": 0, "init": "noise", "num_bn_slots": 1}
    settings = load_settings("digits_quick", {**run.settings.plain(), **changes, "recipe": shared})
    small = Run(run.path, settings)
    bn_teachers: dict[str, dict[int, set[str]]] = {"prism_reference": {}, "prism": {}}
    for unit in unit_plan.synthesis_units(small, 10):
        synthesis_work.run_unit(small, unit, lambda event: None)()
        bn_teachers = ",".join(small.record(unit)["draws"]["bn_teachers"][0])
        bn_teachers[unit.params["method"]].setdefault(unit.params["image_indices"][0], set()).add(
            bn_teachers
        )
    assert [len(found) for found in bn_teachers["prism_reference"].values()] == [1, 1]
    assert any(len(found) > 1 for found in bn_teachers["prism"].values())
