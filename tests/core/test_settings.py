"""Settings: flat names, groups, defaults and contradictions."""

from __future__ import annotations

from typing import Any

import pytest

from prism_nb.core.config import load_settings, read_preset
from prism_nb.core.errors import UsageError
from prism_nb.core.settings import DATA, EVALUATION, SQUEEZE, Settings, extends, group_of


def refusal(changes: dict[str, Any]) -> str:
    """Return the message with which changes to the quick preset are refused."""
    with pytest.raises(UsageError) as caught:
        load_settings("digits_quick", changes)
    return str(caught.value)


# -- flat names ------------------------------------------------------------------------------


def test_sections_are_flat_outside() -> None:
    changes = {"squeeze_lr": 0.5, "label_epochs": 20, "student_seeds": 4, "ce_weight": 0.25}
    settings = load_settings("digits_quick", changes)
    assert settings.squeeze.lr == 0.5
    assert settings.label.epochs == 20
    assert (settings.student.seeds, settings.student.ce_weight) == (4, 0.25)
    plain = settings.plain()
    assert plain.items() >= changes.items()
    assert list(plain) == list(Settings.fields())
    assert Settings.parse(plain, where="here") == settings


def test_every_setting_is_described() -> None:
    for name, field in Settings.fields().items():
        assert field.description, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"squeeze_epoch": 1}, "unknown setting 'squeeze_epoch'; did you mean 'squeeze_epochs'"),
        ({"squeeze": 1}, "unknown setting 'squeeze'; did you mean 'squeeze_lr'"),
        ({"squeeze_lr": "fast"}, "squeeze_lr: Input should be a valid number, got 'fast'"),
        ({"squeeze_lr": 0.0}, "squeeze_lr: Input should be greater than 0, got 0.0"),
        ({"label_mix": "mosaic"}, "label_mix: Input should be 'cutmix', 'mixup' or 'none'"),
        ({"teachers": [1]}, "teachers.0: Input should be a valid string, got 1"),
        ({"recipes": {"prism": 5}}, "recipes.prism: Input should be a mapping of names, got 5"),
    ],
)
def test_wrong_names_and_values_are_refused_by_flat_name(
    changes: dict[str, Any], message: str
) -> None:
    assert message in refusal(changes)


@pytest.mark.parametrize("name", ["teachers", "primary", "students"])
def test_settings_without_default_must_be_given(name: str) -> None:
    values = read_preset("digits_quick")
    del values[name]
    with pytest.raises(UsageError, match=f"{name}: Field required"):
        Settings.parse(values, where="here")


def test_copies_with_changes_are_validated(settings: Settings) -> None:
    assert settings.replace(label_batch=7).label.batch == 7
    with pytest.raises(UsageError, match="label_batch"):
        settings.replace(label_batch=0)


# -- groups ----------------------------------------------------------------------------------


def test_every_setting_but_the_protocols_name_has_a_group() -> None:
    assert [name for name in Settings.fields() if group_of(name) is None] == ["protocol"]


def test_group_values_leave_out_what_only_extends(settings: Settings) -> None:
    assert settings.group_values(DATA)["dataset"] == "digits"
    assert settings.group_values(SQUEEZE)["squeeze_epochs"] == 3
    assert "holdout_networks" not in settings.group_values(SQUEEZE)
    assert settings.group_values(EVALUATION).keys().isdisjoint({"students", "student_seeds"})
    assert extends("student_seeds")
    assert not extends("student_lr")


# -- defaults filled in ----------------------------------------------------------------------


def test_pool_and_holdout_networks_have_the_default_parts() -> None:
    settings = load_settings("digits_quick", {"teachers": ["test_resnet", "test_coatnet"]})
    assert settings.networks == ("test_resnet", "test_coatnet", "test_mambaout")
    assert settings.label_teachers_used == settings.teachers
    assert settings.feature_networks_used == ("test_mambaout",)
    changes = {"label_teachers": ["test_coatnet"], "feature_networks": ["test_coatnet"]}
    named = load_settings("digits_quick", {**changes, "holdout_networks": []})
    assert named.label_teachers_used == named.feature_networks_used == ("test_coatnet",)


def test_students_train_as_long_as_labels_are_stored() -> None:
    assert load_settings("digits_quick").epochs == 10
    assert load_settings("digits_quick", {"student_epochs": 3}).epochs == 3
    assert load_settings("digits_quick", {"student_epochs": 11, "labels": "online"}).epochs == 11
    assert load_settings("digits_quick", {"student_epochs": 11, "cycle_labels": True}).epochs == 11


def test_changes_to_one_recipe_override_changes_to_all() -> None:
    changes = {"recipe": {"lr": 0.3, "iterations": 7}, "recipes": {"prism": {"lr": 0.4}}}
    settings = load_settings("digits_quick", changes)
    prism, sre2l = settings.recipe_of("prism"), settings.recipe_of("sre2l")
    assert (prism.lr, prism.iterations) == (0.4, 7)
    assert (sre2l.lr, sre2l.iterations) == (0.3, 7)


def test_a_methods_students_may_have_an_optimizer_of_their_own() -> None:
    own = {"random_real": {"student_optimizer": "muon", "student_lr": 0.01}}
    settings = load_settings("digits_quick", {"tuned_students": own})
    assert settings.for_students_of("prism") is settings
    found = settings.for_students_of("random_real").student
    assert (found.optimizer, found.lr, found.batch) == ("muon", 0.01, settings.student.batch)


# -- contradictions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": []}, "teachers: name at least one"),
        ({"students": ["a", "a"]}, "students: a is named twice"),
        ({"label_teachers": ["test_resnet"] * 2}, "label_teachers: test_resnet is named twice"),
        ({"primary": "test_resnot"}, "primary: 'test_resnot' is not in the pool; did you mean"),
        ({"holdout_networks": ["test_coatnet"]}, "test_coatnet is also a teacher"),
        ({"holdout_networks": []}, "holdout_networks: name at least one network to measure"),
        ({"feature_networks": ["test_mambaut"]}, "'test_mambaut' is neither teacher nor holdout"),
        ({"students": ["resnet18@IMAGENET1K_V1"]}, "but a student starts untrained"),
        ({"methods": ["prism"], "recipes": {"prsm": {}}}, "'prsm' is not among the methods"),
        ({"methods": ["../up"]}, "cannot name a folder of results"),
        ({"methods": ["real"]}, "cannot name a folder of results"),
        ({"micro_batch_size": 21}, "micro_batch_size: 21 is more than batch_size 20"),
        ({"labels": "hard"}, "'mse_gt' does not go with labels 'hard'; hard labels take ce"),
        ({"student_loss": "ce"}, "'ce' does not go with labels 'stored'"),
        ({"student_epochs": 11}, "11 is more than the 10 epochs of labels; raise label_epochs"),
        ({"eval_variants": ["hart"]}, "eval_variants: 'hart' is none"),
        ({"eval_variants": ["no_aug"]}, "eval_variants: protocol must be among them"),
        (
            {"labels": "hard", "student_loss": "ce", "eval_variants": ["protocol", "hard_labels"]},
            "labels are hard already",
        ),
        (
            {"label_ensemble": "primary_half", "label_teachers": ["test_coatnet"]},
            "primary_half needs the primary among label_teachers",
        ),
        ({"tuned_students": {"prsm": {}}}, "tuned_students: 'prsm' is not among the methods"),
        (
            {"tuned_students": {"prism": {"student_batch": 8}}},
            "tuned_students.prism: 'student_batch' is not a method's own; did you",
        ),
        ({"tuned_students": {"prism": {"student_lr": 0.0}}}, "student_lr: Input should be greater"),
        ({"protocol": "sre2"}, "unknown protocol 'sre2'; did you mean 'sre2l'"),
        ({"protocol": 3}, "protocol: a name is needed, got 3"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(changes)


@pytest.mark.parametrize("device", ["gpu", "", "CUDA", "cuda:x", "cuda:-1", "cpu:0", "cuda:٣"])
def test_names_of_no_device_are_refused(device: str) -> None:
    assert load_settings("digits_quick", {"device": "cuda:12"}).device == "cuda:12"
    assert f"{device!r} is no device; use auto, cpu" in refusal({"device": device})
