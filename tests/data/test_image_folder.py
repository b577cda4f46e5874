"""Datasets of image files: classes and their order, pixel statistics, the disk cache, refusals."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.image_io import read_images
from prism_nb.models.metrics import batches
from tests.helpers.image_trees import make_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", ("cat", "Ant", "bee10", "bee9"))


def open_tree(root: Path | None, *class_list: str, size: int = 16) -> ImageFolder:
    config = DatasetConfig("folder", size, root, class_list=class_list, progress=False)
    return ImageFolder(config)


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
    shutil.rmtree(tree / "val" / "bee9")
    (tree / "val" / "bee9").mkdir()
    whole, part = open_tree(tree, "Ant", "bee10", "cat"), open_tree(tree, "cat", "Ant")
    assert [info.folder for info in part.classes] == ["cat", "Ant"]
    for info, index in zip(part.classes, (2, 0), strict=True):
        mine = part.images("val", part.class_indices("val", info.index).tolist())
        assert torch.equal(mine, whole.images("val", whole.class_indices("val", index).tolist()))


def test_wordnet_ids_get_imagenets_names(tmp_path: Path) -> None:
    dataset = open_tree(make_tree(tmp_path / "t", ("n01440764", "n00000000", "n1")))
    assert [info.name for info in dataset.classes] == ["n00000000", "tench, Tinca tinca", "n1"]


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "class_list", "message"),
    [
        (shutil.rmtree, (), "is no folder"),
        (lambda root: shutil.rmtree(root / "train"), (), "train holds no class folders"),
        (lambda root: shutil.rmtree(root / "val"), (), "no folder of held-out images"),
        (lambda root: shutil.rmtree(root / "val") or (root / "val").mkdir(), (), "but no folders"),
        (lambda root: shutil.rmtree(root / "val/cat"), (), "1 of 4 classes have no val .*'cat'"),
        (lambda root: [p.unlink() for p in (root / "train/cat").iterdir()], (), "no train .*'cat'"),
        (lambda root: (root / "val/cat/film.mp4").touch(), (), r"cat/film\.mp4 is no .jpg"),
        (
            lambda root: (root / "val/cat/images/x").mkdir(parents=True),
            (),
            r"cat/images is no .jpg",
        ),
        (lambda root: None, ("cat", "bee8"), "1 of 2 names .*did you mean 'bee9'"),
    ],
)
def test_a_tree_that_is_not_in_order_is_refused(
    tree: Path, spoil: Callable[[Path], object], class_list: tuple[str, ...], message: str
) -> None:
    spoil(tree)
    with pytest.raises(UsageError, match=message):
        open_tree(tree, *class_list)


# -- pixel statistics ------------------------------------------------------------------------


def test_channel_statistics_are_those_of_the_pixels_and_cached(tree: Path) -> None:
    dataset = open_tree(tree)
    pixels = dataset.images("train", range(len(dataset.labels("train")))).numpy() / 255.0
    assert np.abs(pixels.mean((0, 2, 3)) - dataset.mean).max() <= 5.1e-5
    assert np.abs(pixels.std((0, 2, 3)) - dataset.std).max() <= 5.1e-5
    for path in (tree / "train").rglob("*.png"):
        path.write_bytes(b"\0" * path.stat().st_size)
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
        assert dataset.uncached_bytes([split]) == count * 3 * size**2
        dataset.cache(split)
        assert dataset.uncached_bytes([split]) == 0
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
    with pytest.raises(PrismError, match=r"cat_1\.png"):
        dataset.cache("train")
    assert cached_sizes(tmp_path) == []


# -- names and links -------------------------------------------------------------------------


def test_a_class_folder_that_is_not_utf_8_is_refused_unless_left_out(tree: Path) -> None:
    latin = os.fsdecode("caf\xe9".encode("latin-1"))
    for split in ("train", "val"):
        (tree / split / "cat").rename(tree / split / latin)
    with pytest.raises(UsageError, match=r"class folder 'caf\\udce9' in .*train is not UTF-8"):
        open_tree(tree)
    assert len(open_tree(tree, "bee9", "Ant").classes) == 2


def test_letters_match_in_both_of_their_unicode_forms(tree: Path) -> None:
    one, other = (unicodedata.normalize(form, "\xe9l\xe8ve") for form in ("NFC", "NFD"))
    assert one != other
    (tree / "train" / "cat").rename(tree / "train" / one)
    (tree / "val" / "cat").rename(tree / "val" / other)
    for spelling in (one, other):
        dataset = open_tree(tree, "Ant", spelling)
        assert dataset.classes[1].folder == one
        assert dataset.labels("val").tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["a b", "#1", "-rf", "100%", "it's", 'say "x"', "two\nlines"])
def test_class_folders_may_have_any_name(tree: Path, name: str) -> None:
    for split in ("train", "val"):
        (tree / split / "cat").rename(tree / split / name)
        (tree / split / name / "cat_1.png").rename(tree / split / name / f"{'x' * 251}.png")
    dataset = open_tree(tree, name, "Ant")
    assert dataset.classes[0].folder == name
    assert dataset.images("train", [0, 1, 2]).shape == (3, 3, 16, 16)


def test_an_image_that_cannot_be_read_is_not_called_damaged(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    config = DatasetConfig("folder", 16, tree, skip_damaged=True, progress=False)
    with pytest.raises(PrismError, match=r"_0\.png cannot be read: .*Input/output error"):
        ImageFolder(config)


def test_damaged_images_are_left_out_on_request(tree: Path) -> None:
    (tree / "train/cat/cat_1.png").write_bytes(b"")
    (tree / "train/bee9/bee9_0.png").write_bytes((tree / "val/cat/cat_0.png").read_bytes()[:300])
    config = DatasetConfig("folder", 16, tree, skip_damaged=True, progress=False)
    with pytest.warns(UserWarning, match=r"2 images of 12 cannot .*bee9_0\.png"):
        dataset = ImageFolder(config)
    assert dataset.labels("train").tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    again = ImageFolder(config)  # from the index
    assert again.images("train", range(10)).shape == (10, 3, 16, 16)
    assert again.content_hash == dataset.content_hash
    with pytest.raises(PrismError, match="skip_damaged"):
        open_tree(tree)
    for path in (tree / "train/cat").iterdir():
        path.unlink()
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="4 images of 12"),
        pytest.raises(UsageError, match="no train image .*'cat'"),
    ):
        ImageFolder(config)
