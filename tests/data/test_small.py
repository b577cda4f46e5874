"""Digits, whole and pinned; CIFAR, fetched only when asked for, its pixels untouched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from sklearn.datasets import load_digits

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Cifar, Digits

# -- digits ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(32)


def test_digits_hold_every_scan_once(digits: Digits) -> None:
    labels = np.concatenate([digits.labels("train"), digits.labels("val")])
    assert (np.bincount(labels) == np.bincount(load_digits().target)).all()


def test_the_split_of_digits_is_stratified_and_pinned(digits: Digits) -> None:
    share = np.bincount(digits.labels("val")) / np.bincount(load_digits().target)
    assert np.abs(share - 0.3).max() < 0.01
    scans = Digits(8).images("val", range(540)).numpy().tobytes()
    assert hashlib.sha256(scans).hexdigest()[:16] == "f96322f39ace3ddd"


def test_enlarging_keeps_the_scan(digits: Digits) -> None:
    scan = Digits(8).images("val", [0])[0, 0].double() / 255 * 16
    originals = torch.from_numpy(load_digits().images)
    assert (originals - scan.round()).abs().amax(dim=(1, 2)).min() == 0
    assert digits.images("val", [0]).shape == (1, 3, 32, 32)


# -- CIFAR -----------------------------------------------------------------------------------

NAMES = ["plane", "car", "bird"]
TARGETS = {True: [2, 0, 1, 1, 2, 0], False: [1, 2]}


def pixels_of(train: bool) -> np.ndarray:
    rng = np.random.default_rng(int(train))
    return rng.integers(0, 200, (len(TARGETS[train]), 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace torchvision's CIFAR-10 by a fake; return its arguments."""
    calls: list[dict[str, Any]] = []

    def stand_in(root: str, *, train: bool, download: bool) -> SimpleNamespace:
        calls.append({"root": root, "download": download})
        return SimpleNamespace(data=pixels_of(train), targets=TARGETS[train], classes=NAMES)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", stand_in)
    return calls


def config(root: Path, *class_list: str, size: int = 32, download: bool = False) -> DatasetConfig:
    return DatasetConfig("cifar10", size, root, class_list=class_list, download=download)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_missing_archive_is_explained_and_not_fetched(tmp_path: Path, name: str) -> None:
    changes = {"dataset": name, "data_dir": str(tmp_path)}
    with pytest.raises(UsageError, match=r"download to true.*torchvision\.datasets") as caught:
        open_dataset(load_settings("digits_quick", changes))
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_of_other_content_is_never_opened(tmp_path: Path) -> None:
    folder, mark = tmp_path / "cifar-10-batches-py", tmp_path / "mark"
    folder.mkdir()
    evil = f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()
    kind = torchvision.datasets.CIFAR10
    for name, _ in [*kind.train_list, *kind.test_list, ("batches.meta", "")]:
        (folder / name).write_bytes(evil)
    with pytest.raises(UsageError, match="damaged"):
        Cifar(config(tmp_path))
    assert not mark.exists()


def test_downloading_must_be_asked_for(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    Cifar(config(tmp_path))
    assert {call["download"] for call in calls} == {False}
    calls.clear()
    Cifar(config(tmp_path / "new", download=True))
    assert {(call["download"], call["root"]) for call in calls} == {(True, str(tmp_path / "new"))}


def test_a_failing_network_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(PrismError, match="no route to host"):
        Cifar(config(tmp_path, download=True))


@pytest.mark.usefixtures("calls")
def test_pixels_and_labels_are_torchvisions(tmp_path: Path) -> None:
    dataset = Cifar(config(tmp_path))
    assert dataset.labels("train").tolist() == TARGETS[True]
    assert dataset.labels("val").tolist() == TARGETS[False]
    found = dataset.images("train", [5, 0, 0]).permute(0, 2, 3, 1).numpy()
    assert (found == pixels_of(True)[[5, 0, 0]]).all()
    assert dataset.images("val", []).shape == (0, 3, 32, 32)
    scaled = pixels_of(True) / 255
    assert np.abs(scaled.mean((0, 1, 2)) - dataset.mean).max() <= 5.1e-5
    assert np.abs(scaled.std((0, 1, 2)) - dataset.std).max() <= 5.1e-5


@pytest.mark.usefixtures("calls")
def test_a_class_list_selects_orders_and_renumbers(tmp_path: Path) -> None:
    dataset = Cifar(config(tmp_path, "bird", "plane"))
    assert [info.folder for info in dataset.classes] == ["bird", "plane"]
    assert dataset.labels("train").tolist() == [0, 1, 0, 1]
    found = dataset.images("train", range(4)).permute(0, 2, 3, 1).numpy()
    assert (found == pixels_of(True)[[0, 1, 4, 5]]).all()
    with pytest.raises(UsageError, match="'bird'"):
        Cifar(config(tmp_path, "brid"))


@pytest.mark.usefixtures("calls")
def test_another_size_is_resized_uncropped(tmp_path: Path) -> None:
    image = Image.fromarray(pixels_of(False)[1]).resize((48, 48), Image.Resampling.BICUBIC)
    dataset = Cifar(config(tmp_path, size=48))
    assert (dataset.images("val", [1])[0].permute(1, 2, 0).numpy() == np.asarray(image)).all()
    assert dataset.images("val", []).shape == (0, 3, 48, 48)


@pytest.mark.usefixtures("calls")
def test_the_hash_depends_on_pixels_and_class_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selections = ((), ("bird", "car"), ("car", "bird"))
    found = {Cifar(config(tmp_path, *names)).content_hash for names in selections}
    monkeypatch.setitem(TARGETS, False, [2, 2])
    found.add(Cifar(config(tmp_path)).content_hash)
    assert len(found) == 4
