"""Studies: which runs they take, and what a search chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from prism_nb.core.config import load_settings, read_preset
from prism_nb.core.errors import UsageError
from prism_nb.core.presets import protocol_sentence, studies
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data import registry
from prism_nb.data.dataset import Split
from prism_nb.data.small import Digits
from prism_nb.execution.study import (
    Study,
    StudyFolder,
    _execute_run,
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


def saved(folder: Path, **changes: Any) -> str:
    """Write a study to a file and return its path."""
    (folder / "s.yaml").write_text(write_yaml({**SPEC, **changes}))
    return str(folder / "s.yaml")


def test_every_scenario_has_a_run_per_replicate_with_the_choice_it_asks_for() -> None:
    chosen = {("noise", "prism"): {"lr": 0.77}, ("noise", "mine"): {"lr": 0.66}}
    cells = scenario_runs(study_of(), chosen)
    assert list(cells) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [cell.settings.replicate for cell in cells.values()] == [0, 0, 1, 1]
    shared = {network_unit(c.settings, "test_resnet").fingerprint for c in cells.values()}
    assert len(shared) == 1
    assert len({cell.settings.replicate_seed for cell in cells.values()}) == 2
    tuned, plain = cells["a", 1].settings, cells["b", 1].settings
    assert tuned.ipc == 1
    assert tuned.recipe_of("prism").lr == 0.77
    assert (tuned.recipe_of("mine").lr, tuned.recipe_of("mine").tv_l1) == (0.66, 0.5)
    assert (plain.methods, plain.recipes) == (("prism",), {})
    assert (plain.recipe_of("prism").lr, plain.recipe_of("prism").init) == (0.1, "real")


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


def test_students_settings_are_searched_for_controls_too() -> None:
    grid = {"student_optimizer": ["adamw", "muon"], "student_lr": [0.001], "r_bn": [0.1, 1.0]}
    study = study_of(searches={"noise": {"grid": grid}})
    cells = search_runs(study)
    assert list(cells) == [("noise", m) for m in ("prism", "mine", "random_real")]
    tried = {"prism": 4, "mine": 4, "random_real": 2}  # r_bn is nothing to a control
    for (_, method), cell in cells.items():
        points = grid_points(study, "noise", method)
        assert (len(points), cell.settings.methods) == (tried[method], tuple(points))
        for name, values in points.items():
            student = cell.settings.for_students_of(name).student
            assert (student.optimizer, student.lr) == (values["student_optimizer"], 0.001)
            recipe = cell.settings.recipe_of(name)
            assert recipe.r_bn == values.get("r_bn", recipe.r_bn)
    chosen = {"student_optimizer": "muon", "student_lr": 0.001}
    choice: Any = {("noise", "random_real"): chosen, ("noise", "prism"): {**chosen, "r_bn": 0.1}}
    settings = scenario_runs(study, choice)["a", 0].settings
    assert settings.tuned_students == {"prism": chosen, "random_real": chosen}
    assert settings.recipe_of("prism").r_bn == 0.1
    assert "student_optimizer muon for random_real" in protocol_sentence(settings.plain())


def test_a_search_never_scores_on_the_test_images() -> None:
    sneaky = study_of(settings={**SPEC["settings"], "eval_split": "test"})
    for study in (study_of(), sneaky):
        assert {cell.settings.eval_split for cell in search_runs(study).values()} == {"tuning"}
    assert {cell.settings.eval_split for cell in scenario_runs(study_of(), {}).values()} == {"test"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicate": 3}, "unknown setting 'replicate'; did you mean 'replicates'"),
        ({"scenarios": {}}, "scenarios: Dictionary should have at least 1 item"),
        ({"scenarios": {"../x": {"title": "X"}}}, "scenarios.../x"),
        (
            {"scenarios": {"a": {"title": "A", "tuned_by": "nose"}}},
            "tuned_by: 'nose' is no search; did you mean 'noise'",
        ),
        ({"searches": {"noise": {"grid": {}}}}, "searches.noise.grid: Dictionary should have at"),
        ({"searches": {"noise": {"grid": {"lr": []}}}}, "noise.grid.lr: List should have at least"),
        (
            {"settings": {**SPEC["settings"], "replicate": 3}},
            "settings: replicate would be ignored there",
        ),
        (
            {"searches": {"noise": {"grid": {"lr": [1.0]}, "settings": {"eval_split": "test"}}}},
            "searches.noise.settings: eval_split would be ignored",
        ),
        (
            {"scenarios": {"a": {"title": "A", "settings": {"recipes": {}}, "tuned_by": "noise"}}},
            "scenarios.a.settings: recipes would be ignored",
        ),
        ({"replicates": 0}, "replicates: Input should be greater than or equal to 1"),
        ({"searches": {"noise": {"grid": {"lrr": [1.0]}}}}, "'lrr'; did you mean 'lr'"),
    ],
)
def test_a_wrong_study_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        search_runs(study_of(**changes))
    assert message in str(caught.value)


def test_recipe_files_and_presets_are_found_from_the_studys_folder(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: prism\nlr: 0.123\n")
    (tmp_path / "base.yaml").write_text(write_yaml(read_preset("digits_quick")))
    settings = {"methods": ["mine"], "recipes": {"mine": "own.yaml"}}
    study = saved(tmp_path, preset="base.yaml", settings=settings, replicates=1)
    cell = scenario_runs(load_study(study), {})["a", 0]
    assert cell.settings.recipe_of("mine").lr == 0.123


def test_a_protocol_in_a_scenario_stands_for_its_values_there(tmp_path: Path) -> None:
    scenarios = {
        "theirs": {"title": "T", "settings": {"protocol": "cda", "student_batch": 9}},
        "ours": {"title": "O", "settings": {"protocol": "fair", "label_epochs": 7}},
    }
    cells = scenario_runs(load_study(saved(tmp_path, searches={}, scenarios=scenarios)), {})
    theirs, ours = (cells[name, 0].settings for name in ("theirs", "ours"))
    assert (theirs.student.loss, theirs.student.batch, theirs.label.crop_min) == ("kl", 9, 0.08)
    assert (ours.student.loss, ours.student.batch, ours.label.epochs) == ("mse_gt", 50, 7)


def test_every_run_of_a_study_is_checked_before_any_work(tmp_path: Path) -> None:
    scenarios = {**SPEC["scenarios"], "c": {"title": "C", "settings": {"ipc": 500}}}
    folder = StudyFolder.open(saved(tmp_path, scenarios=scenarios), runs_dir=tmp_path)
    with pytest.raises(UsageError, match="run c-0: .* needs 500 training images per class"):
        check_study(folder)
    assert not folder.path.exists()


def test_a_study_and_a_run_do_not_share_a_folder(tmp_path: Path) -> None:
    study, settings = saved(tmp_path), load_settings("digits_quick")
    StudyFolder.open(study, runs_dir=tmp_path).record()
    with pytest.raises(UsageError, match="is a study's folder"):
        Run.create(tmp_path / "s", settings)
    Run.create(tmp_path / "t", settings)
    with pytest.raises(UsageError, match="t is a run; give the study another name"):
        StudyFolder.open(study, runs_dir=tmp_path, name="t")


def test_a_search_reads_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def images(self: Digits, split: Split, indices: Sequence[int]) -> Tensor:
        assert split == "train"
        return honest(self, split, indices)

    honest = Digits.images
    monkeypatch.setattr(Digits, "images", images)
    less = {"methods": ["random_real"], "teachers": ["test_resnet"], "holdout_networks": []}
    short = {"squeeze_epochs": 1, "label_epochs": 1, "students": ["test_resnet"], "ipc": 1}
    settings = {**less, **short, "feature_networks": ["test_resnet"]}
    searches, scenarios = {"rate": {"grid": {"student_lr": [0.1, 0.2]}}}, SPEC["scenarios"]
    small = study_of(
        settings=settings,
        searches=searches,
        scenarios={"a": {**scenarios["a"], "tuned_by": "rate"}},
    )
    search = next(iter(search_runs(small).values()))
    _execute_run(tmp_path, search)
    with pytest.raises(AssertionError):
        _execute_run(tmp_path, scenario_runs(small, {})["a", 0])


def test_the_studies_of_the_kit_can_be_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "with_dataset_hash", lambda settings: settings)  # no images here
    for name in studies().names():
        study = load_study(name)
        search_runs(study)
        counts = [each.replicates or study.replicates for each in study.scenarios.values()]
        assert len(scenario_runs(study, {})) == sum(counts)


def test_a_scenario_may_have_replicates_of_its_own() -> None:
    scenarios = {**SPEC["scenarios"], "c": {"title": "C", "replicates": 3}}
    runs = scenario_runs(study_of(scenarios=scenarios), {})
    assert list(runs) == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1), ("c", 2)]
    assert [cell.settings.replicate for cell in runs.values()] == [0, 0, 0, 1, 1, 1, 2]
