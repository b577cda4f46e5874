"""Datasets of image files: classes and their order, pixel statistics, the disk cache, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder as TorchvisionFolder

from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import DatasetConfig, ImageDataset
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.image_io import CorruptImageError, read_images
from prism_nb.models.metrics import batches
from tests.helpers.image_trees import make_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", ("cat", "Ant", "bee10", "bee9"))


def open_tree(root: Path | None, *class_list: str, size: int = 16) -> ImageFolder:
    config = DatasetConfig("folder", size, root, class_list=class_list, progress=False)
    return ImageFolder(config)


def refusal(root: Path | None, *class_list: str) -> str:
    with pytest.raises(UsageError) as caught:
        open_tree(root, *class_list)
    return str(caught.value)


# -- classes and order -----------------------------------------------------------------------


def test_classes_images_and_labels_are_in_torchvisions_order(tree: Path) -> None:
    mine, theirs = open_tree(tree), TorchvisionFolder(tree / "train")
    assert [info.folder for info in mine.classes] == theirs.classes
    assert mine.labels("train").tolist() == theirs.targets
    paths = [Path(path) for path, _ in theirs.samples]
    assert torch.equal(mine.images("train", range(len(paths))), read_images(paths, 16))


@pytest.mark.parametrize("held_out", ["val", "validation", "test"])
def test_held_out_images_have_one_of_three_names(tmp_path: Path, held_out: str) -> None:
    dataset = open_tree(make_tree(tmp_path / "t", held_out=held_out))
    assert dataset.labels("val").tolist() == [0, 0, 1, 1]
    assert dataset.labels("train").tolist() == [0, 0, 0, 1, 1, 1]


def test_a_class_list_selects_and_orders(tree: Path) -> None:
    whole, part = open_tree(tree), open_tree(tree, "cat", "Ant")
    assert [info.folder for info in part.classes] == ["cat", "Ant"]
    index_of = {info.folder: info.index for info in whole.classes}
    for info in part.classes:
        mine = part.images("val", part.class_indices("val", info.index).tolist())
        indices = whole.class_indices("val", index_of[info.folder]).tolist()
        assert torch.equal(mine, whole.images("val", indices))


def test_indices_of_a_class_are_those_of_its_labels(tree: Path) -> None:
    dataset = open_tree(tree)
    for c in range(4):
        expected = ImageDataset.class_indices(dataset, "train", c)
        assert (dataset.class_indices("train", c) == expected).all()


def test_wordnet_ids_get_imagenets_names(tmp_path: Path) -> None:
    dataset = open_tree(make_tree(tmp_path / "t", ("n01440764", "n00000000", "n1")))
    assert [info.name for info in dataset.classes] == ["n00000000", "tench, Tinca tinca", "n1"]


# -- refusals --------------------------------------------------------------------------------


def test_a_missing_setting_or_folder_is_named(tmp_path: Path) -> None:
    assert "needs data_dir" in refusal(None)
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


def test_missing_or_doubled_splits_are_named(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "val", tree / "test")
    assert "val and test" in refusal(tree)
    shutil.rmtree(tree / "val")
    shutil.rmtree(tree / "test")
    assert "no folder of held-out images" in refusal(tree)
    (tmp_path / "bare" / "val").mkdir(parents=True)
    assert "'train'" in refusal(tmp_path / "bare")
    (tmp_path / "bare" / "train").mkdir()
    assert "holds no folder" in refusal(tmp_path / "bare")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_in_one_split_only_is_named_with_the_other(tree: Path, split: str) -> None:
    shutil.rmtree(tree / split / "cat")
    message = refusal(tree)
    assert "'cat'" in message
    assert str(tree / split) in message
    assert len(open_tree(tree, "Ant", "bee9").classes) == 2


def test_an_unknown_class_is_refused_with_the_nearest(tree: Path) -> None:
    message = refusal(tree, "cat", "bee8")
    assert "1 of 2" in message
    assert "'bee9'" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_next_to_class_folders_are_refused(tree: Path, split: str) -> None:
    for name in ("zz.PNG", "loose.jpeg", "notes.md"):
        (tree / split / name).write_bytes(b"x")
    message = refusal(tree)
    assert f"2 images lie next to the class folders of {tree / split}, e.g. loose.jpeg" in message


def test_a_damaged_image_is_named_when_it_is_read(tree: Path) -> None:
    path = tree / "train" / "bee9" / "bee9_1.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CorruptImageError, match=r"bee9_1\.png.*skip_corrupt"):
        open_tree(tree)  # to measure the channels


# -- pixel statistics ------------------------------------------------------------------------


def test_channel_statistics_are_those_of_the_pixels_and_cached(tree: Path) -> None:
    dataset = open_tree(tree)
    pixels = dataset.images("train", range(len(dataset.labels("train")))).numpy() / 255.0
    assert np.abs(pixels.mean((0, 2, 3)) - dataset.mean).max() <= 5.1e-5
    assert np.abs(pixels.std((0, 2, 3)) - dataset.std).max() <= 5.1e-5
    for path in (tree / "train").rglob("*.png"):
        path.write_bytes(b"no image any more")
    again = open_tree(tree)
    assert (again.mean, again.std) == (dataset.mean, dataset.std)


# -- the disk cache --------------------------------------------------------------------------


def cached_sizes(tmp_path: Path) -> list[int]:
    """Return the sizes of the cache's decoded images, without their headers."""
    return sorted(path.stat().st_size - 128 for path in tmp_path.glob("cache/decoded/*.npy"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_is_decoded_only_if_asked_for(tree: Path, tmp_path: Path, split: str) -> None:
    for size in (16, 9):
        dataset = open_tree(tree, size=size)
        before = dataset.images(split, [5, 0, 3, 3])
        count = len(dataset.labels(split))
        assert dataset.uncached_bytes(split) == count * 3 * size**2
        dataset.cache(split)
        assert dataset.uncached_bytes(split) == 0
        assert torch.equal(dataset.images(split, [5, 0, 3, 3]), before)
        assert dataset.images(split, []).shape == (0, 3, size, size)
    assert cached_sizes(tmp_path) == [count * 3 * 9**2, count * 3 * 16**2]
    with pytest.raises(IndexError):
        dataset.images(split, [count])


def test_evaluation_reads_files_once_and_a_moved_tree_finds_them(tree: Path) -> None:
    ((first, _),) = batches(open_tree(tree), "val", torch.device("cpu"))
    for path in (tree / "val").rglob("*.png"):
        path.write_bytes(b"\0" * path.stat().st_size)
    moved = open_tree(tree.rename(tree.parent / "moved"))
    assert torch.equal(moved.normalize(moved.images("val", range(8))), first)


def test_a_damaged_image_is_named_and_nothing_cached(tree: Path, tmp_path: Path) -> None:
    dataset = open_tree(tree)
    (tree / "train" / "cat" / "cat_1.png").write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=r"cat_1\.png"):
        dataset.cache("train")
    assert cached_sizes(tmp_path) == []
