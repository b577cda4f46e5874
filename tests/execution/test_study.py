"""Studies: which runs they take, and what a search chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.config import load_settings, read_preset
from prism_nb.core.errors import UsageError
from prism_nb.core.presets import studies
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit
from prism_nb.core.yaml_io import write_yaml
from prism_nb.execution.study import (
    Study,
    StudyFolder,
    check_study,
    grid_points,
    load_study,
    scenario_runs,
    search_runs,
)

SPEC: dict[str, Any] = {
    "title": "A test",
    "preset": "digits_quick",
    "settings": {
        "methods": ["prism", "mine", "random_real"],
        "recipes": {"mine": {"base": "sre2l", "tv_l1": 0.5}},
    },
    "searches": {"noise": {"grid": {"r_bn": [0.1, 1.0], "lr": [0.05, 0.2]}}},
    "scenarios": {
        "a": {"title": "A", "settings": {"ipc": 1}, "tuned_by": "noise"},
        "b": {"title": "B", "settings": {"methods": ["prism"], "recipe": {"init": "real"}}},
    },
    "replicates": 2,
}


def study_of(**changes: Any) -> Study:
    return Study.parse({**SPEC, **changes}, where="test")


def test_every_scenario_has_a_run_per_replicate_and_they_share_their_teachers() -> None:
    cells = scenario_runs(study_of(), {})
    assert list(cells) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [cell.settings.replicate for cell in cells.values()] == [0, 0, 1, 1]
    bindings = {network_unit(c.settings, "test_resnet").fingerprint for c in cells.values()}
    assert len(bindings) == 1
    assert len({cell.settings.replicate_seed for cell in cells.values()}) == 2


def test_a_scenario_lays_its_settings_over_the_studys() -> None:
    cells = scenario_runs(study_of(), {})
    assert cells["a", 0].settings.ipc == 1
    assert cells["b", 0].settings.methods == ("prism",)
    assert cells["b", 0].settings.recipes == {}
    assert cells["b", 0].settings.recipe_of("prism").init == "real"
    assert cells["a", 0].settings.recipe_of("mine").tv_l1 == 0.5


def test_a_choice_reaches_the_scenarios_that_ask_for_it_and_no_others() -> None:
    chosen = {("noise", "prism"): {"lr": 0.77}, ("noise", "mine"): {"lr": 0.66}}
    cells = scenario_runs(study_of(), chosen)
    assert cells["a", 1].settings.recipe_of("prism").lr == 0.77
    assert cells["a", 1].settings.recipe_of("mine").lr == 0.66
    assert cells["a", 1].settings.recipe_of("mine").tv_l1 == 0.5
    assert cells["b", 1].settings.recipe_of("prism").lr == 0.1


def test_a_search_tries_every_combination_of_every_optimising_method_alike() -> None:
    study = study_of()
    cells = search_runs(study)
    assert list(cells) == [("noise", "prism"), ("noise", "mine")]
    for (search, method), cell in cells.items():
        found = grid_points(study, search, method)
        assert [tuple(v.values()) for v in found.values()] == [
            (0.1, 0.05),
            (0.1, 0.2),
            (1.0, 0.05),
            (1.0, 0.2),
        ]
        assert cell.settings.methods == tuple(found)
        for name, values in found.items():
            recipe = cell.settings.recipe_of(name)
            assert (recipe.r_bn, recipe.lr) == (values["r_bn"], values["lr"])
            assert recipe.tv_l1 == (0.5 if method == "mine" else 0.0)


def test_a_search_never_scores_on_the_test_images() -> None:
    sneaky = study_of(settings={**SPEC["settings"], "eval_split": "test"})
    for study in (study_of(), sneaky):
        assert {cell.settings.eval_split for cell in search_runs(study).values()} == {"tuning"}
    assert {cell.settings.eval_split for cell in scenario_runs(study_of(), {}).values()} == {"test"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicate": 3}, "unknown setting 'replicate'; did you mean 'replicates'"),
        ({"scenarios": {}}, "scenarios: name at least one"),
        ({"scenarios": {"../x": {"title": "X"}}}, "scenarios and searches name folders"),
        (
            {"scenarios": {"a": {"title": "A", "tuned_by": "nose"}}},
            "tuned_by: 'nose' is no search; did you mean 'noise'",
        ),
        ({"searches": {"noise": {"grid": {}}}}, "grid: name at least one recipe setting"),
        ({"searches": {"noise": {"grid": {"lr": []}}}}, "grid: name at least one recipe setting"),
        (
            {"settings": {**SPEC["settings"], "replicate": 3}},
            "settings: leave out replicate; the study counts replicates",
        ),
        (
            {"searches": {**SPEC["searches"], "idle": {"grid": {"lr": [1.0]}}}},
            "searches.idle: no scenario is tuned_by it",
        ),
        (
            {"searches": {"noise": {"grid": {"lr": [1.0]}, "settings": {"eval_split": "test"}}}},
            "searches.noise.settings: leave out eval_split",
        ),
        (
            {"scenarios": {"a": {"title": "A", "settings": {"recipes": {}}, "tuned_by": "noise"}}},
            "scenarios.a.settings: leave out recipes; the search does not use them",
        ),
        ({"replicates": 0}, "replicates: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_study_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        study_of(**changes)
    assert message in str(caught.value)


def test_a_wrong_setting_is_refused_under_its_scenarios_name() -> None:
    wrong = study_of(searches={}, scenarios={"a": {"title": "A", "settings": {"ipcs": 3}}})
    with pytest.raises(UsageError, match="scenario a: unknown setting 'ipcs'; did you mean 'ipc'"):
        scenario_runs(wrong, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": None}, "methods: Input should be a valid list"),
        ({"methods": [1]}, "methods.0: Input should be a valid string"),
        ({"recipes": ["a"]}, "recipes: Input should be a mapping"),
        ({"recipe": 3}, "recipe: Input should be a mapping"),
        (
            {"methods": ["prism"], "recipes": {"prsm": {"lr": 0.5}}},
            "settings.recipes: no scenario runs 'prsm'; did you mean 'prism'",
        ),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(
    settings: dict[str, Any], message: str
) -> None:
    plain = {"a": {"title": "A"}}
    for changes in ({"searches": {}, "scenarios": plain}, {"scenarios": SPEC["scenarios"]}):
        study = study_of(settings=settings, **changes)
        with pytest.raises(UsageError) as caught:
            (search_runs(study), scenario_runs(study, {}))
        assert message in str(caught.value)


def test_whole_numbers_and_words_can_be_searched() -> None:
    grid = {"iterations": [2, 3], "batches": ["cross_class", "class_major"], "flip": [True]}
    (cell, _) = search_runs(study_of(searches={"noise": {"grid": grid}})).values()
    recipes = [cell.settings.recipe_of(name) for name in cell.settings.methods]
    assert {(r.iterations, r.batches, r.flip) for r in recipes} == {
        (steps, batches, True) for steps in (2, 3) for batches in ("cross_class", "class_major")
    }


def test_recipe_files_and_presets_are_found_from_the_studys_folder(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: prism\nlr: 0.123\n")
    (tmp_path / "base.yaml").write_text(write_yaml(read_preset("digits_quick")))
    spec = {
        "title": "T",
        "preset": "base.yaml",
        "settings": {"methods": ["mine"], "recipes": {"mine": "own.yaml"}},
        "scenarios": {"a": {"title": "A"}},
        "replicates": 1,
    }
    (tmp_path / "s.yaml").write_text(write_yaml(spec))
    (cell,) = scenario_runs(load_study(str(tmp_path / "s.yaml")), {}).values()
    assert cell.settings.recipe_of("mine").lr == 0.123


def test_a_protocol_in_a_scenario_stands_for_its_values_there(tmp_path: Path) -> None:
    spec = {
        **SPEC,
        "searches": {},
        "scenarios": {
            "theirs": {"title": "T", "settings": {"protocol": "cda", "student_batch": 9}},
            "ours": {"title": "O", "settings": {"protocol": "fair", "label_epochs": 7}},
        },
    }
    path = tmp_path / "two.yaml"
    path.write_text(write_yaml(spec))
    cells = scenario_runs(load_study(str(path)), {})
    theirs, ours = (cells[name, 0].settings for name in ("theirs", "ours"))
    assert (theirs.student.loss, theirs.student.batch, theirs.label.crop_min) == ("kl", 9, 0.08)
    assert (ours.student.loss, ours.student.batch, ours.label.epochs) == ("mse_gt", 50, 7)


def test_every_run_of_a_study_is_checked_before_any_work(tmp_path: Path) -> None:
    spec = {
        **SPEC,
        "scenarios": {**SPEC["scenarios"], "c": {"title": "C", "settings": {"ipc": 500}}},
    }
    file = tmp_path / "s.yaml"
    file.write_text(write_yaml(spec))
    folder = StudyFolder.open(str(file), runs_dir=tmp_path)
    with pytest.raises(UsageError, match="run c-0: .* needs 500 training images per class"):
        check_study(folder)
    assert not folder.path.exists()


def test_a_study_and_a_run_do_not_share_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(write_yaml(SPEC))
    settings = load_settings("digits_quick")
    StudyFolder.open(str(file), runs_dir=tmp_path).record()
    with pytest.raises(UsageError, match="is a study's folder"):
        Run.create(tmp_path / "s", settings)
    Run.create(tmp_path / "t", settings)
    with pytest.raises(UsageError, match="t is a run; give the study another name"):
        StudyFolder.open(str(file), runs_dir=tmp_path, name="t")


def test_a_grid_over_what_is_no_recipe_setting_is_refused() -> None:
    wrong = study_of(searches={"noise": {"grid": {"lrr": [1.0]}}})
    with pytest.raises(UsageError, match="'lrr'; did you mean 'lr'"):
        search_runs(wrong)


def test_the_studies_of_the_kit_can_be_carried_out() -> None:
    for name in studies().names():
        study = load_study(name)
        assert search_runs(study).keys() is not None
        assert len(scenario_runs(study, {})) == len(study.scenarios) * study.replicates


def test_an_unknown_study_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown study 'ablaton'; did you mean 'ablation'"):
        load_study("ablaton")


def test_a_folder_does_not_mix_two_studies_but_takes_more_replicates(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(write_yaml(SPEC))
    StudyFolder.open(str(file), runs_dir=tmp_path).record()
    more = {**SPEC["scenarios"], "c": {"title": "C"}}
    more["a"] = {**more["a"], "title": "Other words"}
    file.write_text(write_yaml({**SPEC, "replicates": 5, "title": "New", "scenarios": more}))
    StudyFolder.open(str(file), runs_dir=tmp_path)
    file.write_text(write_yaml({**SPEC, "preset": "digits"}))
    with pytest.raises(UsageError, match=r"holds another study \(preset differ"):
        StudyFolder.open(str(file), runs_dir=tmp_path)
