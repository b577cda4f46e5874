"""The teacher picker without a browser: what a click does to its value."""

from pathlib import Path

import pytest
import torch

from prism_nb.errors import UsageError
from prism_nb.settings import Settings
from prism_nb.teachers.networks import build_network
from prism_nb.widgets import TeacherPicker


@pytest.fixture
def picker(settings: Settings) -> TeacherPicker:
    return TeacherPicker(settings)


def test_untouched_it_gives_the_settings_back(picker: TeacherPicker, settings: Settings) -> None:
    assert picker.value == settings
    assert "Ready" in picker.status.value


def test_a_smaller_pool_and_another_primary(picker: TeacherPicker, settings: Settings) -> None:
    picker.pool.value = ("test_byobnet", "test_coatnet")
    picker.primary.value = "test_coatnet"
    assert picker.value.teachers == ("test_byobnet", "test_coatnet")
    assert picker.value.primary == "test_coatnet"
    assert picker.value.ipc == settings.ipc
    assert "primary: test_coatnet" in picker.status.value


def test_the_primary_stays_within_the_pool(picker: TeacherPicker) -> None:
    picker.pool.value = ("test_byobnet", "test_coatnet")
    assert picker.primary.options == ("test_byobnet", "test_coatnet")
    assert picker.value.primary in picker.value.teachers


def test_an_empty_pool_is_said_in_words_and_recovered_from(picker: TeacherPicker) -> None:
    picker.pool.value = ()
    assert "Not usable: " in picker.status.value
    with pytest.raises(UsageError):
        _ = picker.value
    picker.pool.value = ("test_resnet",)
    assert "Ready" in picker.status.value
    assert picker.value.primary == "test_resnet"


def test_a_further_network_joins_the_pool(picker: TeacherPicker) -> None:
    picker.name.value = "mobilenetv3_small_050"
    picker.add.click()
    assert picker.value.teachers[-1] == "mobilenetv3_small_050"
    assert picker.name.value == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_convnext", "no BN layers"),
        ("resnet81", "unknown network"),
        ("<b>", "unknown network"),
        ("test_mambaout", "no BN layers"),
    ],
)
def test_what_cannot_join_is_said_in_words(
    picker: TeacherPicker, settings: Settings, name: str, words: str
) -> None:
    picker.name.value = name
    picker.add.click()
    assert words in picker.status.value
    assert "<b>" not in picker.status.value
    assert picker.value == settings


def test_a_network_with_weights_joins_the_pool_if_they_are_there(
    picker: TeacherPicker, tmp_path: Path
) -> None:
    file = tmp_path / "w.pth"
    picker.name.value = f"test_resnet@{file}"
    picker.add.click()
    assert "weights are missing" in picker.status.value
    network = build_network("test_resnet", classes=10, image_size=32)
    torch.save(network.state_dict(), file)
    picker.add.click()
    assert picker.value.teachers[-1] == f"test_resnet@{file}"
