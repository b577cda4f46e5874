"""Settings: presets, changes laid over them, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core import config
from prism_nb.core.config import (
    add_recipes,
    build_settings,
    load_settings,
    parse_assignments,
    short_hash,
)
from prism_nb.core.errors import UsageError
from prism_nb.core.presets import (
    PROTOCOLS,
    protocol_metadata,
    protocol_overrides,
    protocol_values,
)
from prism_nb.core.settings import DATA, EVALUATION, SQUEEZE, Settings, group_of
from prism_nb.core.yaml_io import read_yaml, write_yaml

_CLONE = Path(__file__).resolve().parents[2]
_PRESETS = sorted(path.stem for path in (_CLONE / "notebooks" / "presets").glob("*.yaml"))


def refusal(changes: dict[str, Any]) -> str:
    """Return the message with which changes to the quick preset are refused."""
    with pytest.raises(UsageError) as caught:
        load_settings("digits_quick", changes)
    return str(caught.value)


# -- presets ---------------------------------------------------------------------------------


def test_presets_of_the_clone_are_listed() -> None:
    assert config.presets().names() == _PRESETS
    assert {"digits", "digits_quick"} <= set(_PRESETS)


@pytest.mark.parametrize("preset", _PRESETS)
def test_preset_loads(preset: str) -> None:
    values = config.read_preset(preset)
    assert load_settings(preset).methods == tuple(values["methods"])


@pytest.mark.parametrize("preset", _PRESETS)
def test_settings_survive_the_runs_config_file(preset: str) -> None:
    settings = load_settings(preset)
    written = read_yaml(write_yaml(settings.plain()), where="here")
    assert build_settings(written, where="here") == settings


def test_preset_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    values = {**config.read_preset("digits_quick"), "ipc": 7}
    path.write_text(write_yaml(values), encoding="utf-8")
    assert load_settings(str(path)).ipc == 7


def test_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown preset 'digitz'; did you mean 'digits'"):
        load_settings("digitz")


def test_preset_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(str(tmp_path / "mine.yaml"))
    assert f"preset {tmp_path / 'mine.yaml'} cannot be read" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- digits\n", b"digits\n"])
def test_preset_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="must hold lines of `name: value`"):
        load_settings(str(path))


def test_preset_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"ipc: \xff\xfe\n")
    with pytest.raises(UsageError, match=r"mine\.yaml cannot be read"):
        load_settings(str(path))


def test_preset_with_a_doubled_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("ipc: 1\nipc: 2\n", encoding="utf-8")
    with pytest.raises(UsageError, match="ipc stands twice"):
        load_settings(str(path))


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ipcc", "ipc"),
        ("squeeze_epoch", "squeeze_epochs"),
        ("student", "students"),
        ("holdout_network", "holdout_networks"),
        ("batchsize", "batch_size"),
    ],
)
def test_misspelt_setting_is_refused_with_the_nearest(wrong: str, right: str) -> None:
    message = refusal({wrong: 1})
    assert f"unknown setting '{wrong}'; did you mean" in message
    assert repr(right) in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": "5"}, "ipc: Input should be a valid integer, got '5'"),
        ({"ipc": 5.0}, "ipc: Input should be a valid integer, got 5.0"),
        ({"ipc": 0}, "ipc: Input should be greater than or equal to 1, got 0"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
        ({"squeeze_lr": "fast"}, "squeeze_lr: Input should be a valid number, got 'fast'"),
        ({"squeeze_lr": 0.0}, "squeeze_lr: Input should be greater than 0, got 0.0"),
        ({"label_flip": 1}, "label_flip: Input should be a valid boolean, got 1"),
        (
            {"label_mix": "mosaic"},
            "label_mix: Input should be 'cutmix', 'mixup' or 'none', got 'mosaic'",
        ),
        ({"label_crop_min": 1.5}, "label_crop_min: Input should be less than or equal to 1"),
        ({"teachers": "test_resnet"}, "teachers: a list of networks or the name of a pool"),
        ({"teachers": [1]}, "teachers.0: Input should be a valid string, got 1"),
        ({"recipe": 5}, "recipe: Input should be a mapping of names, got 5"),
        ({"recipes": {"prism": 5}}, "recipes.prism: Input should be a mapping of names, got 5"),
        ({"primary": None}, "primary: Input should be a valid string, got None"),
    ],
)
def test_wrong_value_is_refused_with_its_name(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(changes)


@pytest.mark.parametrize("name", ["teachers", "primary", "students"])
def test_setting_without_default_must_be_given(name: str) -> None:
    values = config.read_preset("digits_quick")
    del values[name]
    with pytest.raises(UsageError, match=f"{name}: Field required"):
        build_settings(values, where="here")


@pytest.mark.parametrize("name", ["teachers", "methods", "students"])
def test_list_that_must_name_something_may_not_be_empty(name: str) -> None:
    assert f"{name}: name at least one" in refusal({name: []})


@pytest.mark.parametrize(
    "name",
    [
        "teachers",
        "holdout_networks",
        "methods",
        "students",
        "label_teachers",
        "feature_networks",
    ],
)
def test_name_that_stands_twice_is_refused(name: str) -> None:
    known = {
        "methods": "prism",
        "holdout_networks": "test_mambaout",
        "feature_networks": "test_mambaout",
    }
    doubled = known.get(name, "test_resnet")
    assert f"{name}: {doubled} is named twice" in refusal({name: [doubled, doubled]})


def test_primary_outside_the_pool_is_refused_with_the_nearest() -> None:
    message = refusal({"primary": "test_resnot"})
    assert "primary: 'test_resnot' is not in the pool; did you mean 'test_resnet'" in message


def test_observer_that_is_also_a_teacher_is_refused() -> None:
    message = refusal({"holdout_networks": ["test_mambaout", "test_coatnet"]})
    assert "holdout_networks: test_coatnet is also a teacher" in message
    assert "take it out of one of the two" in message


@pytest.mark.parametrize("name", ["label_teachers", "feature_networks"])
def test_network_that_is_never_trained_is_refused_with_the_nearest(name: str) -> None:
    message = refusal({name: ["test_mambaut"]})
    assert f"{name}: 'test_mambaut' is neither teacher nor holdout network" in message
    assert "did you mean 'test_mambaout'" in message


def test_settings_without_a_network_to_measure_with_are_refused() -> None:
    assert "holdout_networks: name at least one network to measure" in refusal(
        {"holdout_networks": []}
    )


def test_teacher_may_measure_where_there_is_no_observer() -> None:
    changes = {"holdout_networks": [], "feature_networks": ["test_coatnet"]}
    assert load_settings("digits_quick", changes).feature_spaces == ("test_coatnet",)


def test_unknown_method_is_refused_with_the_nearest() -> None:
    assert "unknown method 'sre3l'; did you mean 'sre2l'" in refusal({"methods": ["sre3l"]})


def test_unknown_recipe_setting_is_refused_with_the_nearest() -> None:
    message = refusal({"recipe": {"iteration": 5}})
    assert "unknown setting 'iteration'; did you mean 'iterations'" in message


def test_recipe_change_for_one_method_is_checked_too() -> None:
    message = refusal({"recipes": {"sre2l": {"lr": "x"}}})
    assert message == "recipe sre2l: lr: Input should be a valid number, got 'x'"


def test_recipe_of_a_method_that_is_not_run_is_refused() -> None:
    message = refusal({"methods": ["prism"], "recipes": {"prsm": {"lr": 0.1}}})
    assert "recipes: 'prsm' is not among the methods; did you mean 'prism'" in message


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_device_name_is_accepted(device: str) -> None:
    assert load_settings("digits_quick", {"device": device}).device == device


@pytest.mark.parametrize(
    "device",
    [
        "gpu",
        "",
        "CUDA",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:0:1",
        "cpu:0",
        "auto:0",
        "cuda:٣",
    ],
)
def test_device_name_is_refused(device: str) -> None:
    message = refusal({"device": device})
    assert f"{device!r} is no device; use auto, cpu, cuda or cuda:N" in message


# -- derived values --------------------------------------------------------------------------


def test_networks_are_the_pool_then_the_observers() -> None:
    settings = load_settings("digits_quick", {"teachers": ["test_resnet", "test_coatnet"]})
    assert settings.networks == ("test_resnet", "test_coatnet", "test_mambaout")


def test_pool_labels_unless_labellers_are_named() -> None:
    assert (
        load_settings("digits_quick").label_teachers_used == load_settings("digits_quick").teachers
    )
    named = load_settings("digits_quick", {"label_teachers": ["test_coatnet"]})
    assert named.label_teachers_used == ("test_coatnet",)


def test_observers_measure_unless_feature_networks_are_named() -> None:
    assert load_settings("digits_quick").feature_spaces == ("test_mambaout",)
    named = load_settings("digits_quick", {"feature_networks": ["test_coatnet"]})
    assert named.feature_spaces == ("test_coatnet",)


def test_change_to_one_methods_recipe_lies_over_the_change_to_all() -> None:
    changes = {"recipe": {"lr": 0.3, "iterations": 7}, "recipes": {"prism": {"lr": 0.4}}}
    settings = load_settings("digits_quick", changes)
    prism, sre2l = settings.recipe_of("prism"), settings.recipe_of("sre2l")
    assert (prism.lr, prism.iterations) == (0.4, 7)
    assert (sre2l.lr, sre2l.iterations) == (0.3, 7)


# -- groups and digests ----------------------------------------------------------------------


def test_every_setting_but_the_protocols_name_has_a_group() -> None:
    assert [name for name in Settings.fields() if group_of(name) is None] == ["protocol"]


def test_group_values_leave_out_what_only_extends(settings: Settings) -> None:
    assert settings.group_values(DATA)["dataset"] == "digits"
    assert settings.group_values(SQUEEZE)["squeeze_epochs"] == 3
    assert "holdout_networks" not in settings.group_values(SQUEEZE)
    assert settings.group_values(EVALUATION).keys().isdisjoint({"students", "student_seeds"})


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _PLAIN, min_size=2, max_size=5))
@hypothesis_settings(deadline=None)
def test_digest_does_not_depend_on_the_order_of_keys(values: dict[str, Any]) -> None:
    turned = {name: values[name] for name in reversed(values)}
    assert list(turned) != list(values)
    assert short_hash(turned) == short_hash(values)


def test_digest_does_not_depend_on_the_order_of_inner_keys() -> None:
    assert short_hash({"a": {"x": 1, "y": 2}}) == short_hash({"a": {"y": 2, "x": 1}})


def test_digest_takes_a_tuple_for_a_list() -> None:
    assert short_hash({"a": (1, 2)}) == short_hash({"a": [1, 2]})


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": [1, 2.0]}, {"a": ["1", 2]}, {"b": [1, 2]}])
def test_digest_differs_for_different_values(other: dict[str, Any]) -> None:
    assert short_hash({"a": [1, 2]}) != short_hash(other)


# -- changes ---------------------------------------------------------------------------------


def test_change_replaces_the_presets_value() -> None:
    assert load_settings("digits_quick", {"ipc": 3}).ipc == 3


def test_changed_list_replaces_the_presets_list() -> None:
    assert load_settings("digits_quick", {"methods": ["sre2l"]}).methods == ("sre2l",)


def test_changed_dict_is_merged_into_the_presets_dict() -> None:
    before = load_settings("digits_quick").recipe
    after = load_settings("digits_quick", {"recipe": {"iterations": 5}}).recipe
    assert "lr" in before
    assert after == {**before, "iterations": 5}


def test_later_load_knows_nothing_of_an_earlier_change() -> None:
    before = load_settings("digits_quick")
    load_settings("digits_quick", {"recipe": {"iterations": 5}})
    assert load_settings("digits_quick") == before


@pytest.mark.parametrize(
    ("assignments", "changes"),
    [
        ((), {}),
        (("ipc=5",), {"ipc": 5}),
        (("squeeze_lr=1e-3",), {"squeeze_lr": 0.001}),
        (("label_flip=false",), {"label_flip": False}),
        (("device=cuda:1",), {"device": "cuda:1"}),
        (("teachers=[a, b]",), {"teachers": ["a", "b"]}),
        (("holdout_networks=[]",), {"holdout_networks": []}),
        (("recipe={lr: 0.1}",), {"recipe": {"lr": 0.1}}),
        (("recipe.lr=0.1", "recipe.jitter=2"), {"recipe": {"lr": 0.1, "jitter": 2}}),
        (("recipes.prism.lr=0.1",), {"recipes": {"prism": {"lr": 0.1}}}),
        (("primary=a=b",), {"primary": "a=b"}),
        (("ipc=",), {"ipc": None}),
    ],
)
def test_assignments_become_changes(assignments: tuple[str, ...], changes: dict[str, Any]) -> None:
    assert parse_assignments(assignments) == changes


def test_dotted_assignment_adds_to_an_earlier_dict() -> None:
    assert parse_assignments(("recipe={lr: 0.1}", "recipe.jitter=2")) == {
        "recipe": {"lr": 0.1, "jitter": 2}
    }


@pytest.mark.parametrize("text", ["ipc", "", "=5", "ipc:5"])
def test_assignment_without_name_or_equals_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_assignments((text,))
    assert str(caught.value) == f"--set {text!r}: write name=value, e.g. --set ipc=5"


@pytest.mark.parametrize("text", [".ipc=5", "recipe.=5", "recipe..lr=5"])
def test_assignment_with_an_empty_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_assignments((text,))


def test_assignment_below_a_plain_value_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_assignments(("recipe=5", "recipe.lr=0.1"))
    assert str(caught.value) == "--set 'recipe.lr=0.1': recipe is set to a plain value as well"


@pytest.mark.parametrize("later", ["recipe={jitter: 2}", "recipe=5"])
def test_assignment_that_would_drop_an_earlier_part_keeps_it_or_is_refused(later: str) -> None:
    try:
        changes = parse_assignments(("recipe.lr=0.1", later))
    except UsageError:
        return
    assert changes["recipe"] == {"lr": 0.1, "jitter": 2}


def test_assignment_that_is_no_yaml_names_its_setting() -> None:
    with pytest.raises(UsageError, match="--set teachers is not valid YAML"):
        parse_assignments(("teachers=[a",))


def test_value_that_holds_itself_is_refused_like_any_other() -> None:
    with pytest.raises(UsageError):
        load_settings("digits_quick", parse_assignments(("recipe=&a {lr: *a}",)))


# -- places ----------------------------------------------------------------------------------


def make_clone(folder: Path) -> Path:
    """Make a folder look like a clone with one preset."""
    (folder / "notebooks" / "presets").mkdir(parents=True)
    (folder / "notebooks" / "presets" / "mine.yaml").write_text("ipc: 1\n", encoding="utf-8")
    return folder


def test_prism_home_names_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRISM_HOME", str(make_clone(tmp_path)))
    assert config.project_root() == tmp_path
    assert config.presets().names() == ["mine"]


def test_prism_home_without_notebooks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        config.project_root()
    assert f"no notebooks/presets in {tmp_path}" in str(caught.value)
    assert "set PRISM_HOME" in str(caught.value)


def test_clone_is_found_from_a_folder_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = make_clone(tmp_path) / "notebooks" / "presets"
    monkeypatch.chdir(inside)
    assert config.project_root() == tmp_path


def test_clone_of_the_package_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.project_root() == _CLONE


def test_runs_lie_in_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRISM_HOME", str(make_clone(tmp_path)))
    assert config.default_runs_dir() == tmp_path / "data" / "runs"


def test_prism_runs_names_the_folder_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRISM_RUNS", str(tmp_path / "elsewhere"))
    assert config.default_runs_dir() == tmp_path / "elsewhere"


def test_relative_prism_runs_starts_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRISM_RUNS", "elsewhere")
    assert config.default_runs_dir() == tmp_path / "elsewhere"


def test_recipe_files_run_beside_the_presets_methods(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: prism\nbn_subset: 2\n")
    changes = add_recipes("digits_quick", {"ipc": 3}, [file])
    settings = load_settings("digits_quick", changes)
    assert settings.methods == ("prism", "sre2l", "random_real", "mine")
    assert settings.ipc == 3
    assert settings.recipe_of("mine").bn_subset_size == 2
    assert settings.recipe_of("mine").title == "mine"
    file.unlink()
    assert load_settings("digits_quick", changes).recipe_of("mine").bn_subset_size == 2


def test_recipe_files_join_methods_that_were_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: prism\n")
    changes = add_recipes("digits_quick", {"methods": ["sre2l"]}, [file, file])
    assert load_settings("digits_quick", changes).methods == ("sre2l", "mine")


def test_no_recipe_file_changes_nothing() -> None:
    assert add_recipes("digits_quick", {"ipc": 3}, []) == {"ipc": 3}


@pytest.mark.parametrize("name", ["real", "../up", "a b", ".hidden", ""])
def test_a_method_must_be_able_to_name_a_folder(name: str) -> None:
    own = {name: {"base": "prism"}}
    with pytest.raises(UsageError, match="cannot name a folder of results"):
        load_settings("digits_quick", {"methods": [name], "recipes": own})


def test_a_network_named_twice_among_the_fixed_is_refused() -> None:
    fixed = {"selection": "fixed", "bn_fixed": ["test_byobnet", "test_byobnet"]}
    with pytest.raises(UsageError, match="bn_fixed names test_byobnet twice"):
        load_settings("digits_quick", {"methods": ["prism"], "recipe": fixed})


def test_a_fixed_primary_that_must_never_align_is_refused() -> None:
    fixed = {"selection": "fixed", "bn_fixed": ["test_resnet"], "primary_in_bn": "never"}
    with pytest.raises(UsageError, match="bn_fixed names the primary 'test_resnet', but"):
        load_settings("digits_quick", {"methods": ["prism"], "recipe": fixed})


def test_negative_weights_of_networks_are_refused() -> None:
    assert "bn_weights.test_resnet" in refusal({"recipe": {"bn_weights": {"test_resnet": -1.0}}})


def test_recipe_files_beside_what_is_no_list_of_methods_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: prism\n")
    with pytest.raises(UsageError, match="methods: a list is needed, got 5"):
        add_recipes("digits_quick", {"methods": 5}, [file])


def test_two_recipe_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / folder / "mine.yaml" for folder in "ab"]
    for place, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(f"base: prism\nbn_slots: {place}\n")
    with pytest.raises(UsageError, match="two recipe files are called 'mine'"):
        add_recipes("digits_quick", {}, files)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": "hard"}, "'mse_gt' does not go with labels 'hard'; hard labels take ce"),
        ({"student_loss": "ce"}, "'ce' does not go with labels 'stored'"),
        ({"student_epochs": 11}, "11 is more than the 10 epochs of labels; raise label_epochs"),
        ({"eval_variants": ["hart"]}, "eval_variants: 'hart' is none; did you mean 'hard'"),
        ({"eval_variants": []}, "eval_variants: protocol must be among them"),
        ({"eval_variants": ["hard"]}, "eval_variants: protocol must be among them"),
        (
            {
                "labels": "hard",
                "student_loss": "ce",
                "eval_variants": ["protocol", "hard_labels_no_aug"],
            },
            "labels are hard already",
        ),
        ({"eval_variants": ["protocol", "protocol"]}, "eval_variants: protocol is named twice"),
        ({"protocol": "sre2"}, "unknown protocol 'sre2'; did you mean 'sre2l'"),
        ({"protocol": 3}, "protocol: a name is needed, got 3"),
        (
            {"label_ensemble": "primary_half", "label_teachers": ["test_coatnet"]},
            "primary_half needs the primary among label_teachers",
        ),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    assert words in refusal(changes)


def test_students_may_train_for_longer_where_no_epoch_is_stored_or_may_be_used_again() -> None:
    assert load_settings("digits_quick", {"student_epochs": 11, "labels": "online"}).epochs == 11
    assert load_settings("digits_quick", {"student_epochs": 11, "cycle_labels": True}).epochs == 11
    assert load_settings("digits_quick", {"student_epochs": 3}).epochs == 3
    assert load_settings("digits_quick").epochs == 10


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_a_protocol_stands_for_its_values_below_ones_own(name: str) -> None:
    settings = load_settings("digits_quick", {"protocol": name, "student_batch": 7})
    expected = {**protocol_values(name), "student_batch": 7}
    plain = settings.plain()
    assert {key: plain[key] for key in expected} == expected
    batch = protocol_values(name)["student_batch"]
    assert protocol_overrides(plain) == {"student_batch": (7, batch)}
    longer = load_settings(
        "digits_quick", {"protocol": name, "student_epochs": 7, "label_format": "int8"}
    )
    assert protocol_overrides(longer.plain()).keys() == {"student_epochs", "label_format"}
    assert protocol_metadata(name).keys() == {"title", "paper"}


def test_protocols_differ_where_the_papers_do() -> None:
    values = {name: protocol_values(name) for name in PROTOCOLS.names()}
    assert set(values) == {"cda", "edc", "fair", "gvbsm", "prism", "rded", "sre2l"}
    assert values["fair"] == values["prism"]
    assert {value["label_epochs"] for value in values.values()} == {300}
    assert [values[n]["student_batch"] for n in ("prism", "sre2l", "cda", "rded", "edc")] == [
        50, 1024, 128, 100, 100,
    ]  # fmt: skip
    assert {n for n, v in values.items() if v["student_loss"] == "kl"} == {"sre2l", "cda", "rded"}
    assert {n for n, v in values.items() if v["label_crop_min"] == 0.5} == {"rded", "edc"}
    assert values["edc"]["ce_weight"] == 0.025


def test_the_defaults_are_the_fair_protocol() -> None:
    plain = load_settings("digits_quick").plain()
    fields = Settings.fields()
    assert plain["protocol"] == "fair"
    assert all(fields[name].default == value for name, value in protocol_values("fair").items())
