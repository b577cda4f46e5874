"""Recipes: methods as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.config import build_settings, load_settings, read_preset
from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import CORESETS, RECIPES, TeacherPool, load_recipe, recipe_differences
from prism_nb.core.yaml_io import read_yaml, write_yaml

WHOLE = "title: Mine\npaper: nobody, nowhere\ninit: noise\nlr: 0.3\n"
BASED = "base: sre2l\nlr: 0.4\n"


def one_method(method: str, recipe: object) -> dict[str, Any]:
    return {"methods": [method], "recipes": {method: recipe}}


# -- the kit's recipes -----------------------------------------------------------------------


def test_titles_are_distinct_and_sources_are_named() -> None:
    recipes = [load_recipe(name) for name in RECIPES.names()]
    assert len({recipe.title for recipe in recipes}) == len(recipes) == 27
    assert all(recipe.paper for recipe in recipes)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("prism_reference", {"init": "real", "batches": "cross_class", "logits": "primary"}),
        ("prism_reference", {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "r_bn": 0.01}),
        ("prism_reference", {"crop_min": 0.08, "crop_schedule": "fixed", "views": "per_batch"}),
        ("prism_reference", {"flip": True, "jitter": 32, "first_bn_multiplier": 10.0}),
        ("prism_reference", {"bn_normalize": "none", "statistics": "bn", "no_bn_policy": "zero"}),
        ("prism_reference", {"tv_l1": 0.0, "l2_scale": 0.0, "densification_weight": 0.0}),
        ("prism_reference", {"image_format": "jpeg75", "iterations": 4000}),
        ("sre2l", {"init": "noise", "lr": 0.25, "r_bn": 0.01, "iterations": 4000}),
        ("cda", {"init": "noise", "lr": 0.25, "crop_schedule": "curriculum", "crop_min": 0.08}),
        ("gvbsm", {"init": "noise", "lr": 0.1, "stats_ema": 0.4, "selection": "round_robin"}),
        ("gvbsm", {"statistics": "bn_conv", "conv_patch_size": 16, "logits": "bn_teachers"}),
        ("rded", {"image_source": "initial", "init": "patches"}),
        ("rded", {"max_scored_images": 300, "crops_per_image": 5}),
        ("delt", {"init": "real_median", "lr": 0.25, "batches": "class_major"}),
        ("delt", {"delt_start_gap": 500, "delt_groups": 8, "crop_schedule": "curriculum"}),
        ("edc", {"init": "patches", "iterations": 1000, "lr": 0.05, "r_bn": 0.1}),
        ("fadrm", {"init": "patches", "iterations": 2000, "lr": 0.25, "residual_alpha": 0.5}),
        ("fadrm_plus", {"logits": "bn_teachers", "selection": "round_robin", "r_bn": 0.01}),
        ("reta", {"residual_source": "retrieved", "residual_alpha": 0.5, "iterations": 2000}),
        ("psm", {"targets": "image_index", "init": "real", "num_bn_slots": 0}),
        ("cim", {"init": "mosaic", "mosaic_grid": 2, "match": "features", "iterations": 200}),
        ("cim", {"lr_schedule": "constant", "clamp": False, "crop_pad": 0.125, "cutout": 0.5}),
        ("cvdd", {"bn_subset_size": 2, "logits": "bn_teachers", "init": "patches"}),
    ],
)
def test_recipes_have_the_values_of_their_papers(name: str, facts: dict[str, Any]) -> None:
    plain = load_recipe(name).plain()
    assert {key: plain[key] for key in facts} == facts


# Fingerprints leave out fields at their defaults: if a default changed, images made with the old
# one would still count as done. Where this fails, restore the default, and write the new value into
# the files of `configs/recipes`. A new field may join the list, a removed one leaves it.
_DEFAULTS: dict[str, Any] = {
    **{"image_source": "optimized", "source": None, "resize": False, "image_format": "png"},
    **{"init": "real", "max_scored_images": 300, "crops_per_image": 5, "mosaic_grid": None},
    **{"batches": "cross_class", "logits": "primary", "whole_head": True},
    **{"selection": "pre", "resample_every": 100, "sample_per": "batch", "primary_in_bn": "always"},
    **{"num_bn_slots": 3, "bn_slot_prob": 0.5, "bn_subset_size": None, "bn_fixed": []},
    **{"bn_weights": {}, "bn_normalize": "none", "no_bn_policy": "error", "statistics": "bn"},
    **{"conv_patch_size": 16, "conv_drop_prob": 0.0, "stats_ema": 0.0},
    **{"iterations": 4000, "early_late_step": 0, "early_late_period": 8},
    **{"delt_start_gap": 0, "delt_groups": 8, "lr": 0.05, "beta1": 0.5, "beta2": 0.9},
    **{"r_bn": 0.01, "first_bn_multiplier": 10.0, "tv_l1": 0.0, "l2_scale": 0.0},
    **{"densification_weight": 0.0, "crop_min": 0.08, "crop_schedule": "fixed"},
    **{"flip": True, "jitter": 32, "views": "per_batch"},
    **{"sizes": [1.0], "residual_alpha": 1.0, "residual_source": "own", "targets": "running"},
    **{"indices": None},
    **{"match": "statistics", "lr_schedule": "cosine"},
    **{"weight_decay": 0.0, "clamp": True, "crop_pad": 0.0, "cutout": 0.0},
}


def test_defaults_stay_those_of_images_made_before() -> None:
    plain = load_recipe("mine", {"title": "Mine", "paper": "nowhere"}).plain()
    assert {name: plain.get(name, "no field") for name in _DEFAULTS} == _DEFAULTS


def test_iterations_fall_by_500_within_eight_image_indices() -> None:
    recipe = load_recipe("prism_reference")
    for image_index in range(200):
        own = {**recipe.plain(), "iterations": 4000 - 500 * (image_index % 8)}
        assert recipe.for_image_index(image_index).plain() == own


@pytest.mark.parametrize(
    ("name", "networks", "drawn"),
    [
        *[(name, ("a",), ("a",)) for name in ("sre2l", "cda", "delt")],
        *[(name, ("a",), ("a",)) for name in ("fadrm", "psm")],
        *[
            (n, ("b", "a", "c"), ("b", "a", "c"))
            for n in ("gvbsm", "edc", "cvdd", "fadrm_plus", "reta")
        ],
        ("random_real", (), ()),
        *[(name, ("a",), ()) for name in (*CORESETS, "pca_mosaic")],
        ("rded", ("a",), ()),
        ("cim", ("a",), ()),
    ],
)
def test_methods_use_the_networks_of_their_papers(
    name: str, networks: tuple[str, ...], drawn: tuple[str, ...]
) -> None:
    recipe, pool = load_recipe(name), TeacherPool("a", ("b", "a", "c"))
    assert set(recipe.networks(pool)) == set(networks)
    assert recipe.networks(pool, "drawn") == drawn


def test_networks_give_logits_statistics_or_scales() -> None:
    own = {"selection": "fixed", "bn_fixed": ["b"], "primary_in_bn": "never"}
    pool = TeacherPool("a", ("a", "b", "c"))

    def loaded(**changes: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
        recipe = load_recipe("prism", {**own, **changes})
        return recipe.networks(pool), recipe.networks(pool, "drawn", "scales")

    assert loaded() == (("a", "b"), ("b",))
    assert loaded(logits="bn_teachers") == (("b",), ("b",))
    assert loaded(logits="bn_teachers", init="patches") == (("a", "b"), ("b",))
    assert loaded(logits="bn_teachers", bn_normalize="real") == (("b", "a"), ("b", "a"))
    assert loaded(logits="round_robin") == (("a", "b", "c"), ("b",))


def test_differences_are_those_that_matter() -> None:
    prism = load_recipe("prism")
    assert recipe_differences(load_recipe("prism_all"), prism) == {"selection": "all"}
    found = recipe_differences(load_recipe("random_real"), prism)
    assert found == {"image_source": "initial", "init": "real_random"}


# -- recipes of one's own --------------------------------------------------------------------


def test_a_new_method_changes_a_base() -> None:
    own = {"base": "prism", "bn_subset_size": 2, "iterations": 7}
    changes = {"methods": ["prism", "two"], "recipe": {"lr": 0.3}, "recipes": {"two": own}}
    settings = load_settings("digits_quick", changes)
    recipe = settings.recipe_of("two")
    assert (recipe.title, recipe.bn_subset_size, recipe.iterations) == ("two", 2, 7)
    assert recipe.paper == load_recipe("prism").paper
    assert recipe.lr == settings.recipe_of("prism").lr == 0.3
    assert load_recipe("two", {"base": "sre2l", "title": "Two"}).title == "Two"
    assert load_recipe("prism", {"base": "sre2l"}).init == "noise"


@pytest.mark.parametrize("text", [WHOLE, BASED])
def test_a_run_keeps_a_recipe_whose_file_is_gone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    settings = load_settings("digits_quick", one_method("mine", str(path)))
    before = settings.recipe_of("mine")
    assert before.lr == (0.3 if text == WHOLE else 0.4)
    path.unlink()
    stored = write_yaml(settings.plain())
    assert str(path) not in stored
    again = build_settings(read_yaml(stored, where="here"), where="here")
    assert again.recipe_of("mine") == before


def test_presets_name_recipe_files_in_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(WHOLE)
    values = {**read_preset("digits_quick"), **one_method("mine", "mine.yaml")}
    (tmp_path / "preset.yaml").write_text(write_yaml(values))
    assert load_settings(str(tmp_path / "preset.yaml")).recipe_of("mine").title == "Mine"
    with pytest.raises(UsageError, match=r"recipe mine\.yaml cannot be read"):
        load_settings("digits_quick", one_method("mine", "mine.yaml"))
    monkeypatch.chdir(tmp_path)  # changes start from the working folder
    changed = load_settings("digits_quick", one_method("mine", "mine.yaml"))
    assert changed.recipe_of("mine").title == "Mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASED + "iteration: 5\n", "unknown setting 'iteration'; did you mean 'iterations'"),
        ("base: prsm\n", "unknown method 'prsm'; did you mean 'prism'"),
        ("base: 5\n", "base must be the name of a recipe, got 5"),
        ("title: Mine\nlr: 0.1\n", "unknown method 'mine'"),
        ("- prism\n", "must hold lines of `name: value`"),
    ],
)
def test_files_of_no_recipe_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings("digits_quick", one_method("mine", str(path)))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("method", ["random_real", "rded"])
def test_changes_to_all_skip_methods_that_do_not_optimise(method: str) -> None:
    shared = {"init": "noise", "crop_min": 0.9, "lr": 9.0, "mosaic_grid": 3}
    assert load_recipe(method, {}, shared) == load_recipe(method)
    assert load_recipe(method, {"crop_min": 0.7}, shared).crop_min == 0.7
    back = {"base": method, "image_source": "optimized"}
    assert load_recipe("two", back, shared).init == "noise"
