"""Reading settings from presets, files and assignments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.config import (
    add_recipes,
    build_settings,
    load_settings,
    parse_assignments,
    read_preset,
    short_hash,
)
from prism_nb.core.errors import UsageError
from prism_nb.core.presets import presets
from prism_nb.core.yaml_io import read_yaml, write_yaml


@pytest.mark.parametrize("preset", presets().names())
def test_presets_load_and_survive_a_runs_config_file(preset: str) -> None:
    settings = load_settings(preset)
    written = read_yaml(write_yaml(settings.plain()), where="here")
    assert build_settings(written, where="here") == settings


def test_presets_are_names_or_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(write_yaml({**read_preset("digits_quick"), "ipc": 7}))
    assert load_settings(str(path)).ipc == 7
    with pytest.raises(UsageError, match="unknown preset 'digitz'; did you mean 'digits'"):
        load_settings("digitz")
    path.unlink()
    with pytest.raises(UsageError, match=r"preset .*mine\.yaml does not exist; name a YAML file"):
        load_settings(str(path))


def test_recipes_of_methods_that_are_taken_out_go_with_them() -> None:
    changes = {"methods": ["cim", "random_real"], "recipes": {"cim": {"iterations": 50}}}
    assert load_settings("digits_recipes", changes).recipes == {
        "cim": {"flip": False, "iterations": 50}
    }
    with pytest.raises(UsageError, match="'cmi' is not among the methods"):
        load_settings("digits_recipes", {"methods": ["cim"], "recipes": {"cmi": {}}})


def test_changes_replace_values_and_merge_into_dicts() -> None:
    before = load_settings("digits_quick")
    after = load_settings("digits_quick", {"methods": ["sre2l"], "recipe": {"iterations": 5}})
    assert after.methods == ("sre2l",)
    assert after.recipe == {**before.recipe, "iterations": 5}
    assert load_settings("digits_quick") == before


# -- assignments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignments", "changes"),
    [
        ((), {}),
        (("ipc=5",), {"ipc": 5}),
        (("squeeze_lr=1e-3",), {"squeeze_lr": 0.001}),
        (("device=cuda:1",), {"device": "cuda:1"}),
        (("teachers=[a, b]",), {"teachers": ["a", "b"]}),
        (("recipe={lr: 0.1}",), {"recipe": {"lr": 0.1}}),
        (("recipe.lr=0.1", "recipe={jitter: 2}"), {"recipe": {"lr": 0.1, "jitter": 2}}),
        (("recipes.prism.lr=0.1",), {"recipes": {"prism": {"lr": 0.1}}}),
        (("primary=a=b",), {"primary": "a=b"}),
        (("ipc=",), {"ipc": None}),
    ],
)
def test_assignments_become_changes(assignments: tuple[str, ...], changes: dict[str, Any]) -> None:
    assert parse_assignments(assignments) == changes


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ipc"], "--set 'ipc': write name=value, e.g. --set ipc=5"),
        (["=5"], "--set '=5': write name=value"),
        (["recipe..lr=5"], "--set 'recipe..lr=5': write name=value"),
        (["teachers=[a"], "--set teachers is not valid YAML"),
    ],
)
def test_wrong_assignments_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_assignments(tuple(texts))
    assert message in str(caught.value)


# -- recipe files ----------------------------------------------------------------------------


def test_recipe_files_add_to_the_methods(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: prism\nbn_subset_size: 2\n")
    changes = add_recipes("digits_quick", {"ipc": 3}, [file])
    own = add_recipes("digits_quick", {"methods": ["sre2l"]}, [file, file])
    file.unlink()  # the settings hold its content
    settings = load_settings("digits_quick", changes)
    assert settings.methods == ("prism", "sre2l", "random_real", "mine")
    assert settings.ipc == 3
    assert settings.recipe_of("mine").bn_subset_size == 2
    assert settings.recipe_of("mine").title == "mine"
    assert load_settings("digits_quick", own).methods == ("sre2l", "mine")
    assert add_recipes("digits_quick", {"ipc": 3}, []) == {"ipc": 3}


def test_recipe_files_that_cannot_be_added_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: prism\n")
    with pytest.raises(UsageError, match="methods: a list is needed, got 5"):
        add_recipes("digits_quick", {"methods": 5}, [tmp_path / "mine.yaml"])


# -- folders and hashes ----------------------------------------------------------------------


def test_hashes_depend_on_everything_but_the_order_of_keys() -> None:
    assert short_hash({"a": {"x": 1, "y": (2,)}}) == short_hash({"a": {"y": [2], "x": 1}})
    for other in ({"a": [2, 1]}, {"a": [1, 2.0]}, {"a": ["1", 2]}, {"b": [1, 2]}):
        assert short_hash({"a": [1, 2]}) != short_hash(other)
