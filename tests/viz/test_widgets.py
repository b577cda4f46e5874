"""The teacher picker without a browser: what a click does to its value."""

import html
from pathlib import Path

import pytest
import torch

from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.execution.pipeline import stage_units
from prism_nb.models.zoo import build_network
from prism_nb.viz.widgets.teacher_picker import TeacherPicker


@pytest.fixture
def picker(run: Run) -> TeacherPicker:
    return TeacherPicker(run)


def take_out(picker: TeacherPicker, *names: str) -> None:
    picker.pool.members.value = names
    picker.pool.remove.click()


def test_untouched_it_gives_the_settings_back(picker: TeacherPicker, settings: Settings) -> None:
    assert picker.value == settings
    assert "Ready" in picker.status.value


def test_a_smaller_pool_and_another_primary(picker: TeacherPicker, settings: Settings) -> None:
    take_out(picker, "test_resnet", "test_efficientnet")
    picker.pool.chosen.value = "test_coatnet"
    assert picker.value.teachers == ("test_byobnet", "test_coatnet")
    assert picker.value.primary == "test_coatnet"
    assert picker.value.ipc == settings.ipc
    assert "primary: test_coatnet" in picker.status.value


def test_a_primary_that_leaves_the_pool_is_missed_and_not_replaced(
    picker: TeacherPicker, settings: Settings
) -> None:
    take_out(picker, "test_resnet")
    assert "no primary: test_resnet has left the pool" in picker.status.value
    with pytest.raises(UsageError, match="choose another one"):
        _ = picker.value
    assert picker.pool.chosen.options[0] == "test_efficientnet"
    picker.name.value = "test_resnet"
    picker.add.click()
    assert picker.value.primary == "test_resnet"
    assert set(picker.value.teachers) == set(settings.teachers)


@pytest.fixture
def synthesised(run: Run) -> Run:
    """A run that has a unit of PRISM's images."""
    for unit in stage_units(run, "squeeze"):
        run.finish(unit, paths=[], record={})
    run.finish(stage_units(run, "synthesis")[0], paths=[], record={})
    return run


def test_a_pick_that_the_run_refuses_is_not_called_ready(synthesised: Run) -> None:
    picker = TeacherPicker(synthesised)
    assert "Ready" in picker.status.value
    picker.pool.chosen.value = "test_byobnet"
    picker.draw.bn_slot_prob.value = 0.9
    with pytest.raises(UsageError) as refused:
        synthesised.with_settings(picker.value)
    assert html.escape(f"Not usable in this run: {refused.value}") in picker.status.value
    assert "primary is" in picker.status.value
    assert "recipes.prism is" in picker.status.value
    assert "Ready" not in picker.status.value
    assert "BN statistics in" in picker.preview.value
    picker.pool.chosen.value = synthesised.settings.primary
    picker.draw.bn_slot_prob.value = 0.5
    assert "Ready" in picker.status.value
    assert synthesised.with_settings(picker.value).settings == synthesised.settings


def test_an_empty_pool_is_said_in_words_and_recovered_from(
    picker: TeacherPicker, settings: Settings
) -> None:
    take_out(picker, *settings.teachers)
    assert "Not usable: the pool is empty" in picker.status.value
    assert picker.preview.value == ""
    with pytest.raises(UsageError):
        _ = picker.value
    picker.name.value = "test_resnet"
    picker.add.click()
    assert "Ready" in picker.status.value
    assert picker.value.primary == "test_resnet"


def test_candidates_are_filtered_selected_and_added(picker: TeacherPicker) -> None:
    picker.table.words.value = "MobileNetV3 050"
    names = [name for _, name in picker.table.found.options]
    assert "mobilenetv3_small_050" in names
    assert all("mobilenetv3" in name and "050" in name for name in names)
    assert picker.join.disabled
    picker.table.found.value = ("mobilenetv3_small_050",)
    picker.join.click()
    assert picker.value.teachers[-1] == "mobilenetv3_small_050"
    assert "Added" in picker.message.value


def test_lists_are_unselected_before_their_options_change(picker: TeacherPicker) -> None:
    lists = (picker.table.found, picker.pool.members, picker.draw.bn_fixed)
    seen: list[tuple[int, ...]] = []
    for one in lists:
        one.value = one.options and (one._options_values[-1],)
        one.observe(lambda change: seen.append(change.owner.index), names="_options_labels")
    picker.table.words.value = "test_resnet"
    picker.pool.put(("test_resnet",))
    picker.draw.offer(("test_resnet",), "test_resnet")
    assert seen == [()] * len(lists)


def test_a_filter_that_nothing_fits_says_so(picker: TeacherPicker) -> None:
    picker.table.words.value = "no such network"
    assert picker.table.found.options == ()
    assert "No network fits: shorten the filter" in picker.table.count.value
    assert picker.join.disabled
    picker.table.words.value = ""
    assert "No network fits" not in picker.table.count.value


def test_family_origin_cost_and_sorting_narrow_the_list(picker: TeacherPicker) -> None:
    picker.table.family.value = "resnet"
    picker.table.origin.value = "torchvision"
    picker.table.gflop.value = 10.0
    picker.table.sort.value = "fewest GFLOP"
    names = [name for _, name in picker.table.found.options]
    assert names[0] == "resnet18"
    assert "resnet50" in names
    assert "resnet152" not in names


def test_published_weights_are_offered_and_looked_for(picker: TeacherPicker) -> None:
    picker.table.found.value = ("resnet18",)
    tags = [tag for _, tag in picker.weights.options]
    assert tags == ["", "IMAGENET1K_V1"]
    picker.weights.value = "IMAGENET1K_V1"
    picker.join.click()
    assert "Not added: " in picker.message.value
    assert "resnet18@IMAGENET1K_V1" in picker.message.value
    assert "weights are missing" in picker.message.value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_convnext", "no BN layers"),
        ("alexnet", "no BN layers"),
        ("resnet81", "unknown network"),
        ("<b>", "unknown network"),
        ("inception_v3", "cannot take 32-pixel images"),
    ],
)
def test_what_cannot_join_is_said_in_words(
    picker: TeacherPicker, settings: Settings, name: str, words: str
) -> None:
    picker.name.value = name
    picker.add.click()
    assert words in picker.message.value
    assert "<b>" not in picker.message.value
    assert picker.value == settings


def test_a_network_with_weights_joins_the_pool_if_they_are_there(
    picker: TeacherPicker, tmp_path: Path
) -> None:
    file = tmp_path / "w.pth"
    picker.name.value = f"test_resnet@{file}"
    picker.add.click()
    assert "weights are missing" in picker.message.value
    network = build_network("test_resnet", classes=10, image_size=32)
    torch.save(network.state_dict(), file)
    picker.add.click()
    assert picker.value.teachers[-1] == f"test_resnet@{file}"
    assert "of the primary&#x27;s family (resnet)" in picker.warnings.value


def test_the_draw_goes_to_the_method_and_back(picker: TeacherPicker, settings: Settings) -> None:
    assert list(picker.draw.method.options) == ["prism"]
    picker.draw.selection.value = "intra"
    picker.draw.resample_every.value = 5
    picker.draw.bn_slot_prob.value = 0.25
    assert picker.value.recipes == {
        "prism": {"selection": "intra", "resample_every": 5, "bn_slot_prob": 0.25}
    }
    assert picker.value.recipe_of("prism").bn_slot_prob == 0.25
    assert picker.value.recipe_of("sre2l") == settings.recipe_of("sre2l")
    assert "resample_every: 5" in picker.status.value
    picker.draw.selection.value = "pre"
    picker.draw.resample_every.value = settings.recipe_of("prism").resample_every
    picker.draw.bn_slot_prob.value = 0.5
    assert picker.value == settings


def test_fixed_teachers_leave_with_the_pool(picker: TeacherPicker) -> None:
    picker.draw.selection.value = "fixed"
    assert picker.draw.bn_fixed.layout.display == ""
    assert picker.draw.num_bn_slots.layout.display == "none"
    picker.draw.bn_fixed.value = ("test_byobnet", "test_coatnet")
    assert picker.value.recipe_of("prism").bn_fixed == ("test_byobnet", "test_coatnet")
    take_out(picker, "test_byobnet")
    assert picker.value.recipe_of("prism").bn_fixed == ("test_coatnet",)


def test_an_impossible_draw_is_said_in_words(picker: TeacherPicker) -> None:
    picker.draw.primary_in_bn.value = "never"
    picker.draw.num_bn_slots.value = 0
    assert "method prism has no BN teacher" in picker.status.value
    assert picker.preview.value == ""


def test_the_preview_says_what_a_step_is(picker: TeacherPicker) -> None:
    assert "uses 2.50 networks on average" in picker.preview.value
    assert "1 in 12.5 %" in picker.preview.value
    picker.draw.selection.value = "all"
    assert "uses 4.00 networks on average (4 in 100.0 %" in picker.preview.value


def test_without_a_method_that_draws_there_is_nothing_to_set(
    tmp_path: Path, settings: Settings
) -> None:
    own = settings.model_copy(update={"methods": ("sre2l",)})
    picker = TeacherPicker(Run.create(tmp_path / "other", own))
    (words,) = picker.draw.children
    assert "Nothing to set: no method of this run draws BN teachers" in words.value
    assert picker.value == own
    assert "methods of this run (sre2l)" in picker.preview.value


def test_comparing_untrained_networks_says_what_to_do(picker: TeacherPicker) -> None:
    picker.compare.click()
    assert "Train them with the cell below" in picker.likeness.value
    assert "test_resnet" in picker.likeness.value
