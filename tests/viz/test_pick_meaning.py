"""What a pick of teachers means, without widgets: warnings, costs, tables and candidates."""

import shutil
from math import isclose, nan
from pathlib import Path

import numpy as np
import pytest

from prism_nb.core import fileio
from prism_nb.core.config import build_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import network_unit
from prism_nb.data.registry import open_dataset
from prism_nb.models.similarity import Comparison
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.weights import to_safetensors, weights_metadata
from prism_nb.models.zoo import build_network, network_info
from prism_nb.synthesis.teacher_sampling import selection_probs
from prism_nb.viz.widgets.teacher_picker import (
    candidates,
    comparison_html,
    network_facts,
    pool_warnings,
    preview_html,
    step_costs,
)


def picked(settings: Settings, **changes: object) -> Settings:
    return build_settings({**settings.plain(), **changes}, where="a test")


def warned(settings: Settings, **changes: object) -> list[str]:
    own = picked(settings, **changes)
    return pool_warnings(own, {name: 0 if name == "alexnet" else 1 for name in own.teachers})


def test_a_pool_of_different_families_is_not_warned_of(settings: Settings) -> None:
    assert warned(settings) == []


def test_a_network_without_bn_layers_is_named(settings: Settings) -> None:
    (text,) = warned(settings, teachers=["test_resnet", "alexnet"])
    assert text.startswith("alexnet has no BN layers")


def test_the_primarys_family_is_named(settings: Settings) -> None:
    (some,) = warned(settings, teachers=["test_resnet", "resnet18", "resnetv2_50", "vgg11_bn"])
    assert some.startswith("resnet18 and resnetv2_50 are of the primary's family (resnet)")
    assert "no other family" not in some
    (only,) = warned(settings, teachers=["test_resnet", "resnet18"])
    assert only.startswith("resnet18 is of")
    assert "no other family is in the pool" in only
    (alone,) = warned(settings, teachers=["test_resnet"])
    assert alone.startswith("The primary is alone")


def test_a_measuring_network_inside_the_pool_is_named(settings: Settings) -> None:
    (inside,) = warned(settings, feature_networks=["test_byobnet", "test_mambaout"])
    assert inside.startswith("test_byobnet measures diversity and is in the pool")
    (same,) = warned(settings, holdout_networks=["test_byobnet@weights/mine.pth"])
    assert "has the architecture of test_byobnet" in same


def test_facts_without_values_are_those_of_the_real_network() -> None:
    facts = network_facts("test_resnet", classes=10, image_size=32)
    network = build_network("test_resnet", classes=10, image_size=32)
    assert facts == network_info("test_resnet", network, image_size=32)


def test_a_step_costs_what_its_networks_cost(settings: Settings) -> None:
    own = picked(settings, recipes={"prism": {"selection": "all"}})
    facts = {name: network_facts(name, classes=10, image_size=32) for name in own.teachers}
    found = selection_probs(own.recipe_of("prism"), own.primary, own.teachers)
    costs = step_costs(found, facts)
    assert costs == {name: facts[name].flops for name in own.teachers}
    ratio = sum(costs.values()) / facts[own.primary].flops
    assert f"It costs {ratio:.2f} times a step" in preview_html(own, "prism", facts)


def test_a_network_without_bn_layers_costs_nothing_where_it_only_counts(
    settings: Settings,
) -> None:
    own = picked(
        settings, teachers=["test_resnet", "alexnet"], recipes={"prism": {"no_bn_policy": "zero"}}
    )
    facts = {
        "test_resnet": network_facts("test_resnet", classes=10, image_size=32),
        "alexnet": network_facts("alexnet", classes=10, image_size=64),
    }
    assert facts["alexnet"].bn_layers == 0
    costs = step_costs(selection_probs(own.recipe_of("prism"), own.primary, own.teachers), facts)
    assert costs["alexnet"] == 0
    assert isclose(costs["test_resnet"], facts["test_resnet"].flops)


def test_the_comparison_shows_numbers_and_says_what_is_missing() -> None:
    values = np.array([[1.0, 0.25], [0.25, nan]])
    shown = comparison_html(Comparison(("a<b", "c"), {"d": "not trained"}, 200, values, values))
    assert "200 real held-out images" in shown
    assert shown.count(">0.25<") == 4
    assert "a&lt;b" in shown
    assert "a<b" not in shown
    assert "–" in shown
    assert "Not compared: d: not trained" in shown


def test_one_network_cannot_be_compared() -> None:
    one = np.ones((1, 1))
    assert "Two networks are needed" in comparison_html(Comparison(("a",), {}, 200, one, one))


def trained(run: Run, name: str) -> None:
    """Leave what the squeeze leaves of a network."""
    dataset = open_dataset(run.settings)
    network = build_network(name, classes=10, image_size=32)
    unit = network_unit(run.settings, name)
    note = weights_metadata(dataset, dataset_preprocess(dataset))
    fileio.write_bytes(run.file(unit.params["weights"]), to_safetensors(network.state_dict(), note))
    facts = network_info(name, network, image_size=32)
    record = {**vars(facts), "accuracy": 0.5, "seconds": 1.0}
    run.finish(unit, paths=[unit.params["weights"]], record=record)
    run.write_classes(dataset.class_records())


def test_trained_networks_come_first_and_neighbours_by_their_files(run: Run) -> None:
    trained(run, "test_resnet")
    trained(run, "test_convnext")
    shutil.copytree(run.path, run.path.parent / "beside")
    first, second, third = candidates(run)[:3]
    assert (first.name, first.library, first.family) == ("test_resnet", "this run", "resnet")
    assert first.accuracy == 50
    assert first.measured_on == "digits"
    assert first.input_size == 32
    file = run.path.parent / "beside" / "teachers" / "test_resnet.safetensors"
    assert second.name == f"test_resnet@{file}"
    assert second.library == "run beside"
    assert third.library == "torchvision"


@pytest.mark.parametrize("damage", ["{", "[]", '{"record": {"bn_layers": 3}}'])
def test_what_a_neighbour_has_damaged_is_not_offered(run: Run, damage: str) -> None:
    trained(run, "test_resnet")
    beside = run.path.parent / "beside"
    shutil.copytree(run.path, beside)
    Path(beside / "teachers" / "units" / "test_resnet.json").write_text(damage)
    assert candidates(run)[1].library == "torchvision"


def test_a_neighbour_of_other_classes_is_not_offered(run: Run) -> None:
    trained(run, "test_resnet")
    shutil.copytree(run.path, run.path.parent / "beside")
    classes = run.read_classes() or []
    fileio.write_json(run.path / "classes.json", classes[:1])
    assert candidates(run)[1].library == "torchvision"
