"""Digits, whole and pinned; CIFAR, fetched only when asked for, its pixels untouched."""

from __future__ import annotations

import gzip
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
from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import DatasetConfig, ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Digits, cifar, mnist

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


# -- MNIST and Fashion-MNIST -----------------------------------------------------------------


def write_idx(folder: Path, mean: float, *, packed: bool = False) -> dict[str, np.ndarray]:
    """Write four IDX files of random pixels around a mean in [0, 1], and return their arrays."""
    rng, arrays = np.random.default_rng(0), dict[str, np.ndarray]()
    folder.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 20)):
        images = 255 * mean + rng.uniform(-30, 30, (count, 28, 28))
        arrays[f"{part}-images-idx3-ubyte"] = np.round(images).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(count).astype(np.uint8) % 10
    for name, array in arrays.items():
        head = [0x0800 + array.ndim, *array.shape]
        content = b"".join(value.to_bytes(4, "big") for value in head) + array.tobytes()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return arrays


def open_fashion(root: Path, name: str = "fashion_mnist", *classes: str) -> ImageDataset:
    return mnist(DatasetConfig(name, 28, root, class_list=classes))


@pytest.mark.parametrize("inner", ["", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_torchvision_does(tmp_path: Path, inner: str, packed: bool) -> None:
    arrays = write_idx(tmp_path / "set" / inner, 0.286, packed=packed)
    dataset = open_fashion(tmp_path / "set")
    assert [info.folder for info in dataset.classes][:2] == ["t_shirt_top", "trouser"]
    for split, part in (("train", "train"), ("val", "t10k")):
        images = dataset.images(split, range(20)).numpy()
        expected = arrays[f"{part}-images-idx3-ubyte"][:20, None]
        assert (images == np.repeat(expected, 3, axis=1)).all()
        assert (dataset.labels(split) == arrays[f"{part}-labels-idx1-ubyte"]).all()
    if inner == "FashionMNIST/raw" and not packed:
        theirs = torchvision.datasets.FashionMNIST(str(tmp_path / "set"))
        assert theirs.targets.tolist() == dataset.labels("train").tolist()
        assert (theirs.data.numpy() == dataset.images("train", range(60))[:, 0].numpy()).all()
    some = open_fashion(tmp_path / "set", "fashion_mnist", "ankle_boot", "dress")
    assert set(some.labels("train")) == {0, 1}
    assert some.classes[0].name == "Ankle boot"


def test_debians_folder_and_the_downloaded_one_need_no_data_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks" / "presets").mkdir(parents=True)
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    write_idx(tmp_path / "data" / "downloads" / "fashion-mnist", 0.286, packed=True)
    dataset = mnist(DatasetConfig("fashion_mnist", 28))
    assert len(dataset.labels("train")) == 60
    with pytest.raises(UsageError, match="dataset mnist needs data_dir"):
        mnist(DatasetConfig("mnist", 28))


def test_idx_files_that_are_not_in_order_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_idx(folder, 0.1307, packed=True)
    with pytest.raises(UsageError, match=r"are not FashionMNIST's: their mean is 0\.13"):
        open_fashion(folder)
    assert len(open_fashion(folder, "mnist").classes) == 10
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-12])
    with pytest.raises(UsageError, match=r"t10k-labels-idx1-ubyte\.gz is damaged"):
        open_fashion(folder, "mnist")
    labels.unlink()
    with pytest.raises(UsageError, match=r"or another of the four IDX files, is missing"):
        open_fashion(folder, "mnist")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(bytes(8))
    with pytest.raises(UsageError, match="t10k-labels-idx1-ubyte is damaged"):
        open_fashion(folder, "mnist")


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
        cifar(config(tmp_path))
    assert not mark.exists()


def test_downloading_must_be_asked_for(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    cifar(config(tmp_path))
    assert {call["download"] for call in calls} == {False}
    calls.clear()
    cifar(config(tmp_path / "new", download=True))
    assert {(call["download"], call["root"]) for call in calls} == {(True, str(tmp_path / "new"))}


@pytest.mark.usefixtures("calls")
def test_pixels_and_labels_are_torchvisions(tmp_path: Path) -> None:
    dataset = cifar(config(tmp_path))
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
    dataset = cifar(config(tmp_path, "bird", "plane"))
    assert [info.folder for info in dataset.classes] == ["bird", "plane"]
    assert dataset.labels("train").tolist() == [0, 1, 0, 1]
    found = dataset.images("train", range(4)).permute(0, 2, 3, 1).numpy()
    assert (found == pixels_of(True)[[0, 1, 4, 5]]).all()
    with pytest.raises(UsageError, match="'bird'"):
        cifar(config(tmp_path, "brid"))


@pytest.mark.usefixtures("calls")
def test_another_size_is_resized_uncropped(tmp_path: Path) -> None:
    image = Image.fromarray(pixels_of(False)[1]).resize((48, 48), Image.Resampling.BICUBIC)
    dataset = cifar(config(tmp_path, size=48))
    assert (dataset.images("val", [1])[0].permute(1, 2, 0).numpy() == np.asarray(image)).all()
    assert dataset.images("val", []).shape == (0, 3, 48, 48)


@pytest.mark.usefixtures("calls")
def test_the_hash_depends_on_pixels_and_class_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selections = ((), ("bird", "car"), ("car", "bird"))
    found = {cifar(config(tmp_path, *names)).content_hash for names in selections}
    monkeypatch.setitem(TARGETS, False, [2, 2])
    found.add(cifar(config(tmp_path)).content_hash)
    assert len(found) == 4
