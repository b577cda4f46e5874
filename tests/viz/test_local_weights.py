"""Weights files of one's own: which network a name tells, and how the picker offers them."""

from pathlib import Path

import pytest
import torch

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.weights import to_safetensors, weights_metadata
from prism_nb.models.zoo import build_network
from prism_nb.viz.widgets.teacher_picker import TeacherPicker, candidates, local_weights, named_in


@pytest.fixture
def weights(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `weights` of a clone with two files of the kit's, a pickle, and one of no name."""
    (tmp_path / "clone" / "notebooks" / "presets").mkdir(parents=True)
    monkeypatch.setenv("PRISM_HOME", str(tmp_path / "clone"))
    folder, dataset = tmp_path / "clone" / "weights", open_dataset(run.settings)
    network = build_network("test_resnet", classes=10, image_size=32)
    note = weights_metadata(dataset, dataset_preprocess(dataset))
    fileio.write_bytes(
        folder / "test_resnet.safetensors", to_safetensors(network.state_dict(), note)
    )
    torch.save(network.state_dict(), folder / "test_resnet-mine.pth")
    fileio.write_bytes(folder / "resnet18_damaged.safetensors", b"no weights")
    fileio.write_bytes(folder / "<best>.pth", b"")
    fileio.write_bytes(folder / "notes.txt", b"")
    return folder


@pytest.mark.parametrize(
    ("stem", "network"),
    [
        ("resnet18", "resnet18"),
        ("resnet18-5c106cde", "resnet18"),
        ("resnet18_mine", "resnet18"),
        ("wide_resnet50_2.best", "wide_resnet50_2"),
        ("mobilenet_v2_run_3", "mobilenet_v2"),
        ("resnet18@IMAGENET1K_V1", "resnet18"),
        ("resnet181", None),
        ("my_resnet18", None),
        ("vit_b_16-c867db91", None),  # it has no batch norm
        ("", None),
    ],
)
def test_a_files_name_begins_with_its_network(stem: str, network: str | None) -> None:
    found = named_in(stem)
    assert (found and found.name) == network


def test_files_are_listed_by_name_and_none_is_read_as_weights(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a file was read"))
    found = local_weights()
    listed = [(one.name, one.input_size, one.accuracy) for one in found.candidates]
    assert listed == [
        ("resnet18@weights/resnet18_damaged.safetensors", 0, None),
        ("test_resnet@weights/test_resnet-mine.pth", 0, None),
        ("test_resnet@weights/test_resnet.safetensors", 32, None),
    ]
    assert {one.library for one in found.candidates} == {"local file"}
    assert found.others == ("weights/<best>.pth",)


def test_without_the_folder_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    assert local_weights().candidates == ()
    assert local_weights().others == ()


def test_the_picker_offers_them_and_names_the_others(run: Run, weights: Path) -> None:
    picker = TeacherPicker(run)
    hints = "".join(getattr(child, "value", "") for child in picker.children)
    assert "begin with no network&#x27;s: weights/&lt;best&gt;.pth. Add them by name" in hints
    picker.table.origin.value = "local file"
    assert len(picker.table.found.options) == 3
    picker.table.found.value = ("test_resnet@weights/test_resnet.safetensors",)
    assert [tag for _, tag in picker.weights.options] == [""]
    picker.join.click()
    assert picker.value.teachers[-1] == "test_resnet@weights/test_resnet.safetensors"
    picker.table.found.value = ("resnet18@weights/resnet18_damaged.safetensors",)
    picker.join.click()
    assert "Not added: " in picker.message.value
    assert "are damaged or no weights at all" in picker.message.value


def test_an_accuracy_says_on_which_images(run: Run) -> None:
    listed = {one.name: one for one in candidates(run)}
    assert listed["resnet18"].measured_on == "ImageNet-1K"
    picker = TeacherPicker(run)
    picker.table.words.value = "resnet18"
    lines = {name: line.split() for line, name in picker.table.found.options}
    assert lines["resnet18"][-2:] == ["69.8", "ImageNet-1K"]
    assert lines["timm/resnet18"][-1] == "–"
