"""Recipes: methods as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import config
from prism_nb.core.config import build_settings, load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import RECIPES, load_recipe, make_recipe, read_recipe_file
from prism_nb.core.yaml_io import read_yaml, write_yaml


def test_recipes_are_listed_in_order() -> None:
    expected = [
        "cda",
        "cvdd",
        "delt",
        "edc",
        "gvbsm",
        "imported",
        "prism",
        "prism_all",
        "prism_intra",
        "prism_reference",
        "prism_wide",
        "random_real",
        "rded",
        "sre2l",
    ]
    assert RECIPES.names() == expected


@pytest.mark.parametrize("name", RECIPES.names())
def test_recipe_loads_and_names_its_source(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title
    assert recipe.paper


def test_titles_are_distinct_since_tables_tell_methods_apart_by_them() -> None:
    titles = {load_recipe(name).title for name in RECIPES.names()}
    assert len(titles) == len(RECIPES.names())


def test_prism_draws_further_bn_teachers_and_starts_from_real_images() -> None:
    recipe = load_recipe("prism")
    assert recipe.selection == "pre"
    assert recipe.primary_in_bn == "always"
    assert recipe.num_bn_slots == 3
    assert recipe.bn_slot_prob == 0.5
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
        (
            {"init": "zeros"},
            "init: Input should be 'noise', 'real', 'real_random', 'real_median' or 'patches', got",
        ),
        (
            {"images": "fake"},
            "images: Input should be 'recovered', 'initial' or 'imported', got 'fake'",
        ),
        ({"bn_slot_prob": 1.5}, "bn_slot_prob: Input should be less than or equal to 1"),
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
        "recipes": {"two": {"base": "prism", "bn_subset_size": 2, "iterations": 7}},
    }
    settings = load_settings("digits_quick", changes)
    recipe = settings.recipe_of("two")
    assert (recipe.title, recipe.bn_subset_size, recipe.iterations) == ("two", 2, 7)
    assert recipe.lr == settings.recipe_of("prism").lr == 0.3
    assert settings.recipe_of("prism").bn_subset_size is None


@pytest.mark.parametrize(
    ("recipes", "words"),
    [
        ({}, "unknown method 'two'.*needs an entry in `recipes` with a `base`"),
        ({"two": {"base": "prsm"}}, "unknown method 'prsm'; did you mean 'prism'"),
        (
            {"two": {"base": "prism", "bn_subset_size": 4}},
            "method two: bn_subset_size is 4, .* only 3",
        ),
        ({"two": {"base": "prism", "image_indices": 4}}, "unknown setting 'slots'"),
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
    steps = [recipe.for_image_index(image_index).iterations for image_index in range(10)]
    assert steps == [4000, 3500, 3000, 2500, 2000, 1500, 1000, 500, 4000, 3500]
    assert sum(steps) / len(steps) == 2550


def test_a_slot_without_steps_is_refused_not_saved_as_it_began() -> None:
    changes = {"recipe": {"iterations": 900, "early_late_step": 300}, "ipc": 4}
    with pytest.raises(UsageError, match="image slot 3 would get 0 steps"):
        load_settings("digits_quick", changes)
    load_settings("digits_quick", {**changes, "ipc": 3})


def test_published_defaults() -> None:
    recipe = load_recipe("prism_reference")
    expected = {
        "init": "real",
        "batches": "cross_class",
        "logits": "primary",
        "lr": 0.05,
        "beta1": 0.5,
        "beta2": 0.9,
        "r_bn": 0.01,
        "first_bn_multiplier": 10.0,
        "crop_min": 0.08,
        "crop_schedule": "fixed",
        "flip": True,
        "jitter": 32,
        "views": "per_batch",
        "bn_normalize": "none",
        "tv_l1": 0.0,
        "l2_scale": 0.0,
        "densification_weight": 0.0,
        "statistics": "bn",
        "image_format": "jpeg75",
        "no_bn_policy": "zero",
    }
    plain = recipe.plain()
    assert {name: plain[name] for name in expected} == expected


def test_the_published_schedule_falls_by_500_within_eight_slots() -> None:
    recipe = load_recipe("prism_reference")
    for image_index in range(200):
        assert recipe.for_image_index(image_index).iterations == 4000 - 500 * (image_index % 8)
        assert recipe.for_image_index(image_index).plain() == {
            **recipe.plain(),
            "iterations": 4000 - 500 * (image_index % 8),
        }


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("sre2l", {"init": "noise", "lr": 0.25, "r_bn": 0.01, "iterations": 4000}),
        ("cda", {"init": "noise", "lr": 0.25, "crop_schedule": "curriculum", "crop_min": 0.08}),
        ("gvbsm", {"init": "noise", "lr": 0.1, "stats_ema": 0.4, "selection": "round_robin"}),
        ("gvbsm", {"statistics": "bn_conv", "conv_patch_size": 16, "logits": "bn_teachers"}),
        (
            "rded",
            {
                "image_source": "initial",
                "init": "patches",
                "max_scored_images": 300,
                "crops_per_image": 5,
            },
        ),
        ("delt", {"init": "real_median", "lr": 0.25, "batches": "class_major"}),
        ("delt", {"delt_start_gap": 500, "delt_groups": 8, "crop_schedule": "curriculum"}),
        ("edc", {"init": "patches", "iterations": 1000, "lr": 0.05, "r_bn": 0.1}),
        ("cvdd", {"bn_subset_size": 2, "logits": "bn_teachers", "init": "patches"}),
    ],
)
def test_recipes_hold_the_facts_of_their_papers(name: str, facts: dict[str, Any]) -> None:
    plain = load_recipe(name).plain()
    assert {key: plain[key] for key in facts} == facts


@pytest.mark.parametrize("name", ["sre2l", "cda", "delt"])
def test_methods_of_one_network_load_no_other(name: str) -> None:
    assert load_recipe(name).networks("a", ("a", "b", "c")) == ("a",)


@pytest.mark.parametrize("name", ["gvbsm", "edc", "cvdd"])
def test_coupled_methods_may_draw_any_of_the_pool(name: str) -> None:
    assert load_recipe(name).bn_networks("a", ("b", "a", "c")) == ("b", "a", "c")


def test_networks_are_loaded_to_speak_to_align_and_to_scale() -> None:
    own = {"selection": "fixed", "bn_fixed": ["b"], "primary_in_bn": "never"}
    pool = ("a", "b", "c")

    def loaded(**changes: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
        recipe = load_recipe("prism", {**own, **changes})
        return recipe.networks("a", pool), recipe.stat_networks("a", pool)

    assert loaded() == (("a", "b"), ("b",))
    assert loaded(logits="bn_teachers") == (("b",), ("b",))
    assert loaded(logits="bn_teachers", init="patches") == (("a", "b"), ("b",))
    assert loaded(logits="bn_teachers", bn_normalize="real") == (("b", "a"), ("b", "a"))
    assert loaded(logits="round_robin") == (("a", "b", "c"), ("b",))


def test_methods_that_do_not_optimise_load_a_network_only_to_judge() -> None:
    assert load_recipe("random_real").networks("a", ("a", "b")) == ()
    assert load_recipe("rded").networks("a", ("a", "b")) == ("a",)
    assert load_recipe("rded").bn_networks("a", ("a", "b")) == ()


# -- files -----------------------------------------------------------------------------------

WHOLE = "title: Mine\npaper: nobody, nowhere\ninit: noise\nlr: 0.3\n"
BASED = "base: sre2l\nlr: 0.4\n"


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def one_method(method: str, recipe: object) -> dict[str, Any]:
    return {"methods": [method], "recipes": {method: recipe}}


def test_a_whole_recipe_in_a_file_stands_on_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    settings = load_settings("digits_quick", one_method("mine", str(path)))
    recipe = settings.recipe_of("mine")
    assert (recipe.title, recipe.paper) == ("Mine", "nobody, nowhere")
    assert (recipe.init, recipe.lr, recipe.num_bn_slots) == ("noise", 0.3, 3)


def test_a_recipe_in_a_file_may_change_a_base(tmp_path: Path) -> None:
    path = written(tmp_path, BASED)
    settings = load_settings("digits_quick", one_method("mine", str(path)))
    own = {"lr": 0.4, "title": "mine"}  # lie above what the preset changes of all recipes
    expected = {**load_recipe("sre2l").plain(), **settings.recipe, **own}
    assert settings.recipe_of("mine").plain() == expected


@pytest.mark.parametrize("text", [WHOLE, BASED])
def test_a_run_keeps_a_recipe_whose_file_is_gone(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    settings = load_settings("digits_quick", one_method("mine", str(path)))
    before = settings.recipe_of("mine")
    path.unlink()
    assert settings.recipe_of("mine") == before
    stored = write_yaml(settings.plain())
    assert str(path) not in stored
    again = build_settings(read_yaml(stored, where="here"), where="here")
    assert again.recipe_of("mine") == before


def test_a_preset_names_recipe_files_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, WHOLE)
    values = {**config.read_preset("digits_quick"), **one_method("mine", "mine.yaml")}
    preset = written(tmp_path, write_yaml(values), "preset.yaml")
    assert load_settings(str(preset)).recipe_of("mine").title == "Mine"
    with pytest.raises(UsageError, match=r"recipe mine\.yaml cannot be read"):
        load_settings("digits_quick", one_method("mine", "mine.yaml"))
    monkeypatch.chdir(tmp_path)  # changes start from the working folder
    changed = load_settings("digits_quick", one_method("mine", "mine.yaml"))
    assert changed.recipe_of("mine").title == "Mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHOLE + "iteration: 5\n", "unknown setting 'iteration'; did you mean 'iterations'"),
        (BASED + "momentun: 0.5\n", "unknown setting 'momentun'; did you mean 'momentum'"),
        ("base: prsm\n", "unknown method 'prsm'; did you mean 'prism'"),
        ("base: 5\n", "base must be the name of a recipe, got 5"),
        ("base: [prism]\n", "base must be the name of a recipe, got ['prism']"),
        ("title: Mine\nlr: 0.1\n", "unknown method 'mine'"),
        ("lr: [\n", "is not valid YAML"),
        ("- prism\n", "must hold lines of `name: value`"),
        ("", "must hold lines of `name: value`"),
        (WHOLE + "lr: 0.4\n", "lr stands twice"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_settings("digits_quick", one_method("mine", str(path)))
    assert words in str(caught.value)
    if "unknown method" not in words:
        assert str(path) in str(caught.value)


def test_a_recipe_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe .*absent\.yaml cannot be read"):
        read_recipe_file(tmp_path / "absent.yaml")
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"title: \xff\xfe\n")
    with pytest.raises(UsageError, match=r"recipe .*mine\.yaml cannot be read"):
        read_recipe_file(path)


def test_a_base_that_is_no_text_is_refused_in_the_settings_too() -> None:
    with pytest.raises(UsageError, match="recipe two: base must be the name of a recipe, got 7"):
        load_settings("digits_quick", one_method("two", {"base": 7}))


def test_a_method_without_a_base_is_refused_though_it_has_an_entry() -> None:
    with pytest.raises(UsageError, match="unknown method 'two'.*with a `base`, or with a `title`"):
        load_settings("digits_quick", one_method("two", {"lr": 0.1}))


# -- what is laid over what ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random_real", "rded"])
def test_changes_to_all_pass_over_methods_that_do_not_optimise(method: str) -> None:
    shared = {"init": "noise", "crop_min": 0.9, "lr": 9.0, "mosaic_grid": 3}
    assert make_recipe(method, {}, shared) == load_recipe(method)
    assert make_recipe(method, {"crop_min": 0.7}, shared).crop_min == 0.7


def test_a_method_of_ones_own_that_does_not_optimise_is_passed_over_too() -> None:
    own = {"base": "prism", "image_source": "initial", "init": "real_median"}
    assert make_recipe("two", own, {"init": "noise"}).init == "real_median"
    back = {"base": "rded", "image_source": "optimized"}
    assert make_recipe("two", back, {"init": "noise"}).init == "noise"


def test_a_base_does_not_pass_on_its_title_but_its_source() -> None:
    recipe = make_recipe("two", {"base": "sre2l"})
    assert (recipe.title, recipe.paper) == ("two", load_recipe("sre2l").paper)
    assert make_recipe("two", {"base": "sre2l", "title": "Two"}).title == "Two"


def test_one_recipe_may_stand_on_another_of_the_kit() -> None:
    recipe = make_recipe("prism", {"base": "sre2l"})
    assert (recipe.init, recipe.num_bn_slots) == ("noise", 0)


# -- what cannot be carried out --------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"base": "delt", "delt_start_gap": 1}])
def test_class_wise_batches_at_one_image_per_class_are_refused(changes: dict[str, Any]) -> None:
    own = {"base": "prism", "batches": "class_wise", "early_late_step": 0, **changes}
    values = {**one_method("two", own), "ipc": 1}
    with pytest.raises(UsageError, match="method two has class-wise batches, which at ipc 1"):
        load_settings("digits_quick", values)
    load_settings("digits_quick", {**values, "ipc": 8})
    own = {**own, "image_source": "initial"}
    load_settings("digits_quick", {**values, "recipes": {"two": own}})


def test_class_wise_batches_of_one_slot_each_are_refused() -> None:
    own = {"base": "prism", "batches": "class_wise", "early_late_step": 5}
    with pytest.raises(UsageError, match="or with early_late_step, hold one image"):
        load_settings("digits_quick", {**one_method("two", own), "ipc": 4})


@pytest.mark.parametrize("teachers", [["test_resnet"], ["test_resnet", "test_byobnet"]])
def test_a_pool_without_a_candidate_beside_the_primary_is_refused(teachers: list[str]) -> None:
    own = {"base": "prism", "primary_in_bn": "never", "selection": "all"}
    changes = {**one_method("two", own), "teachers": teachers, "primary": "test_resnet"}
    if len(teachers) > 1:
        load_settings("digits_quick", changes)
        return
    with pytest.raises(UsageError, match="method two has no BN teacher: .* 'never'"):
        load_settings("digits_quick", changes)
