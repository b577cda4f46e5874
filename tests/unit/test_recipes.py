"""Recipes: methods as data."""

from __future__ import annotations

from typing import Any

import pytest

from prism_nb.errors import UsageError
from prism_nb.recipes import load_recipe, recipe_names


def test_the_three_recipes_are_listed_in_order() -> None:
    assert recipe_names() == ["prism", "random_real", "sre2l"]


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_and_names_its_source(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title
    assert "arXiv" in recipe.paper


def test_titles_are_distinct_since_tables_tell_methods_apart_by_them() -> None:
    titles = {load_recipe(name).title for name in recipe_names()}
    assert len(titles) == len(recipe_names())


def test_prism_draws_further_bn_teachers_and_starts_from_real_images() -> None:
    recipe = load_recipe("prism")
    assert recipe.primary_in_bn
    assert recipe.bn_slots == 3
    assert recipe.bn_probability == 0.5
    assert recipe.init == "real"


def test_sre2l_is_steered_by_the_primary_alone_and_starts_from_noise() -> None:
    recipe = load_recipe("sre2l")
    assert recipe.primary_in_bn
    assert recipe.bn_slots == 0
    assert recipe.init == "noise"


def test_random_real_optimises_nothing() -> None:
    assert load_recipe("random_real").images == "real"


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
        ({"init": "zeros"}, "init: Input should be 'noise' or 'real', got 'zeros'"),
        ({"images": "fake"}, "images: Input should be 'recovered' or 'real', got 'fake'"),
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


def test_recipe_without_any_bn_network_is_refused() -> None:
    with pytest.raises(UsageError, match="no network would give BN statistics"):
        load_recipe("sre2l", {"primary_in_bn": False})


def test_recipe_without_the_primary_may_draw_others() -> None:
    recipe = load_recipe("sre2l", {"primary_in_bn": False, "bn_slots": 1})
    assert not recipe.primary_in_bn


def test_real_images_need_no_bn_network() -> None:
    recipe = load_recipe("random_real", {"primary_in_bn": False, "bn_slots": 0})
    assert recipe.images == "real"
