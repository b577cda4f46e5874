"""Recipes: methods as data."""

from __future__ import annotations

from typing import Any

import pytest

from prism_nb.config import load_settings
from prism_nb.errors import UsageError
from prism_nb.recipes import load_recipe, recipe_names


def test_recipes_are_listed_in_order() -> None:
    expected = [
        "cda",
        "cvdd",
        "delt",
        "edc",
        "gvbsm",
        "prism",
        "prism_all",
        "prism_intra",
        "prism_reference",
        "random_real",
        "rded",
        "sre2l",
    ]
    assert recipe_names() == expected


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_and_names_its_source(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title
    assert recipe.paper


def test_titles_are_distinct_since_tables_tell_methods_apart_by_them() -> None:
    titles = {load_recipe(name).title for name in recipe_names()}
    assert len(titles) == len(recipe_names())


def test_prism_draws_further_bn_teachers_and_starts_from_real_images() -> None:
    recipe = load_recipe("prism")
    assert recipe.selection == "pre"
    assert recipe.primary_in_bn == "always"
    assert recipe.bn_slots == 3
    assert recipe.bn_probability == 0.5
    assert recipe.init == "real"


def test_sre2l_is_steered_by_the_primary_alone_and_starts_from_noise() -> None:
    recipe = load_recipe("sre2l")
    assert recipe.bn_networks("a", ("a", "b", "c")) == ("a",)
    assert recipe.init == "noise"


def test_random_real_optimises_nothing() -> None:
    assert load_recipe("random_real").images == "initial"


def test_later_change_wins() -> None:
    recipe = load_recipe("prism", {"lr": 0.1, "iterations": 5}, {"lr": 0.2})
    assert (recipe.lr, recipe.iterations) == (0.2, 5)


def test_change_leaves_the_other_settings_alone() -> None:
    plain = load_recipe("prism").plain()
    assert load_recipe("prism", {"lr": 0.1}).plain() == {**plain, "lr": 0.1}


def test_change_lasts_for_one_call_only() -> None:
    before = load_recipe("prism")
    load_recipe("prism", {"lr": 0.77})
    assert load_recipe("prism") == before


def test_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown method 'prsm'; did you mean 'prism'"):
        load_recipe("prsm")


def test_path_is_no_method() -> None:
    with pytest.raises(UsageError, match="unknown method"):
        load_recipe("../recipes/prism")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iteration": 5}, "unknown setting 'iteration'; did you mean 'iterations'"),
        ({"lr": "fast"}, "lr: Input should be a valid number, got 'fast'"),
        ({"lr": 0}, "lr: Input should be greater than 0, got 0"),
        ({"iterations": 2.5}, "iterations: Input should be a valid integer, got 2.5"),
        ({"init": "zeros"}, "init: Input should be 'noise', 'real', 'real_random', 'real_median' or 'patches', got"),
        ({"images": "fake"}, "images: Input should be 'recovered' or 'initial', got 'fake'"),
        ({"bn_probability": 1.5}, "bn_probability: Input should be less than or equal to 1"),
        ({"crop_min": 0}, "crop_min: Input should be greater than 0, got 0"),
        ({"flip": 1}, "flip: Input should be a valid boolean, got 1"),
        ({"beta2": 1}, "beta2: Input should be less than 1, got 1"),
    ],
)
def test_bad_change_is_refused_under_the_recipes_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("prism", change)
    assert str(caught.value).startswith("recipe prism: ")
    assert message in str(caught.value)


def test_a_method_of_ones_own_is_a_base_and_its_changes() -> None:
    changes = {
        "methods": ["prism", "two"],
        "recipe": {"lr": 0.3},
        "recipes": {"two": {"base": "prism", "bn_subset": 2, "iterations": 7}},
    }
    settings = load_settings("digits_quick", changes)
    recipe = settings.recipe_of("two")
    assert (recipe.title, recipe.bn_subset, recipe.iterations) == ("two", 2, 7)
    assert recipe.lr == settings.recipe_of("prism").lr == 0.3
    assert settings.recipe_of("prism").bn_subset is None


@pytest.mark.parametrize(
    ("recipes", "words"),
    [
        ({}, "unknown method 'two'.*needs an entry in `recipes` with a `base`"),
        ({"two": {"base": "prsm"}}, "unknown method 'prsm'; did you mean 'prism'"),
        ({"two": {"base": "prism", "bn_subset": 4}}, "method two: bn_subset is 4, .* only 3"),
        ({"two": {"base": "prism", "slots": 4}}, "unknown setting 'slots'"),
    ],
)
def test_a_method_of_ones_own_that_cannot_be_is_refused(
    recipes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        load_settings("digits_quick", {"methods": ["two"], "recipes": recipes})


def test_class_wise_batches_need_two_images_per_class() -> None:
    changes = {"recipe": {"batches": "class_wise"}, "ipc": 1}
    with pytest.raises(UsageError, match="class-wise batches, which at ipc 1"):
        load_settings("digits_quick", changes)
    load_settings("digits_quick", {**changes, "ipc": 2})


def test_early_slots_get_more_steps_as_published() -> None:
    recipe = load_recipe("prism_reference")
    steps = [recipe.at_slot(slot).iterations for slot in range(10)]
    assert steps == [4000, 3500, 3000, 2500, 2000, 1500, 1000, 500, 4000, 3500]
    assert sum(steps) / len(steps) == 2550


def test_a_slot_without_steps_is_refused_not_saved_as_it_began() -> None:
    changes = {"recipe": {"iterations": 900, "early_late_step": 300}, "ipc": 4}
    with pytest.raises(UsageError, match="image slot 3 would get 0 steps"):
        load_settings("digits_quick", changes)
    load_settings("digits_quick", {**changes, "ipc": 3})
