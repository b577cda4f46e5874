"""CIFAR through torchvision: fetched only when asked for, classes chosen, pixels untouched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Cifar

NAMES = ["plane", "car", "bird"]
TARGETS = {True: [2, 0, 1, 1, 2, 0], False: [1, 2]}


def pixels_of(train: bool) -> np.ndarray:
    rng = np.random.default_rng(int(train))
    return rng.integers(0, 200, (len(TARGETS[train]), 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a stand-in for torchvision's CIFAR-10 in place; return what it is asked for."""
    calls: list[dict[str, Any]] = []

    def stand_in(root: str, *, train: bool, download: bool) -> SimpleNamespace:
        calls.append({"root": root, "download": download})
        return SimpleNamespace(data=pixels_of(train), targets=TARGETS[train], classes=NAMES)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", stand_in)
    return calls


def source(root: Path, *class_list: str, size: int = 32, download: bool = False) -> DatasetConfig:
    return DatasetConfig("cifar10", size, root, class_list=class_list, download=download)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_what_is_not_there_is_not_fetched_but_explained(tmp_path: Path, name: str) -> None:
    changes = {"dataset": name, "data_dir": str(tmp_path)}
    with pytest.raises(UsageError, match=r"download to true.*torchvision\.datasets") as caught:
        open_dataset(load_settings("digits_quick", changes))
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_of_another_content_is_never_opened(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    mark = tmp_path / "mark"
    evil = f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()
    kinds = torchvision.datasets.CIFAR10
    for name, _ in [*kinds.train_list, *kinds.test_list, ("batches.meta", "")]:
        (folder / name).write_bytes(evil)
    with pytest.raises(UsageError, match="damaged"):
        Cifar(source(tmp_path))
    assert not mark.exists()


def test_downloading_must_be_asked_for(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    Cifar(source(tmp_path))
    assert {call["download"] for call in asked} == {False}
    asked.clear()
    Cifar(source(tmp_path / "new", download=True))
    assert {call["download"] for call in asked} == {True}
    assert {call["root"] for call in asked} == {str(tmp_path / "new")}


def test_a_network_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(PrismError, match="no route to host"):
        Cifar(source(tmp_path, download=True))


@pytest.mark.usefixtures("asked")
def test_pixels_and_labels_are_torchvisions(tmp_path: Path) -> None:
    dataset = Cifar(source(tmp_path))
    assert dataset.labels("train").tolist() == TARGETS[True]
    assert dataset.labels("val").tolist() == TARGETS[False]
    found = dataset.images("train", [5, 0, 0]).permute(0, 2, 3, 1).numpy()
    assert (found == pixels_of(True)[[5, 0, 0]]).all()
    assert dataset.images("val", []).shape == (0, 3, 32, 32)
    scaled = pixels_of(True) / 255
    assert np.abs(scaled.mean((0, 1, 2)) - dataset.mean).max() <= 5.1e-5
    assert np.abs(scaled.std((0, 1, 2)) - dataset.std).max() <= 5.1e-5


@pytest.mark.usefixtures("asked")
def test_a_class_list_chooses_orders_and_renames_labels(tmp_path: Path) -> None:
    dataset = Cifar(source(tmp_path, "bird", "plane"))
    assert [info.folder for info in dataset.classes] == ["bird", "plane"]
    assert dataset.labels("train").tolist() == [0, 1, 0, 1]
    found = dataset.images("train", range(4)).permute(0, 2, 3, 1).numpy()
    assert (found == pixels_of(True)[[0, 1, 4, 5]]).all()
    with pytest.raises(UsageError, match="'bird'"):
        Cifar(source(tmp_path, "brid"))


@pytest.mark.usefixtures("asked")
def test_another_size_is_resized_without_a_cut(tmp_path: Path) -> None:
    image = Image.fromarray(pixels_of(False)[1]).resize((48, 48), Image.Resampling.BICUBIC)
    dataset = Cifar(source(tmp_path, size=48))
    assert (dataset.images("val", [1])[0].permute(1, 2, 0).numpy() == np.asarray(image)).all()
    assert dataset.images("val", []).shape == (0, 3, 48, 48)


@pytest.mark.usefixtures("asked")
def test_content_follows_pixels_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        Cifar(source(tmp_path)).content_hash,
        Cifar(source(tmp_path, "bird", "car")).content_hash,
    }
    found.add(Cifar(source(tmp_path, "car", "bird")).content_hash)
    monkeypatch.setitem(TARGETS, False, [2, 2])
    found.add(Cifar(source(tmp_path)).content_hash)
    assert len(found) == 4
