"""The index of an image tree: what is listed, skipped and refused, and when it is read again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.image_folder import folder_layout
from prism_nb.data.index import Index, open_index
from tests.helpers.image_trees import age, make_tree, picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", ("ape", "bee", "cat"))


def indexed(root: Path, *, skip: bool = False, progress: bool = False) -> Index:
    config = DatasetConfig("folder", 16, root, skip_corrupt=skip, progress=progress)
    return open_index(config, folder_layout)


def never(root: Path, class_list: object) -> None:
    raise AssertionError("the tree was read again")


def cache_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "index").glob("*.npz"))


def counts(index: Index) -> list[int]:
    return np.bincount(index.splits["train"].labels).tolist()


# -- scanning --------------------------------------------------------------------------------


def test_suffixes_count_in_any_case_and_litter_is_ignored(tree: Path) -> None:
    folder = tree / "train" / "cat"
    for name in ("a.JPG", "b.Jpeg", "c.WEBP", ".DS_Store", "Thumbs.db", "._a.jpg", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    assert counts(indexed(tree)) == [3, 3, 6]


def test_files_that_are_no_images_are_counted_and_named(tree: Path) -> None:
    for name in ("film.mp4", "noending"):
        (tree / "val" / "cat" / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"2 entries .*val/cat/film\.mp4"):
        indexed(tree)
    (tree / "train" / "ape" / "images").mkdir()
    with pytest.raises(UsageError, match=r"1 entries .*train/ape/images"):
        indexed(tree)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_is_named_with_its_split(tree: Path, split: str) -> None:
    for path in (tree / split / "cat").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=f"1 of 3 classes have no {split} image .*'cat'"):
        indexed(tree)


def test_names_in_any_script_or_encoding_survive(tree: Path) -> None:
    names = [b"\xff\xfe.png", "Äpfel ü.png".encode(), "写真.png".encode(), b"two\nlines.png"]
    for seed, name in enumerate(names):
        path = os.fsencode(tree / "train" / "cat") + b"/" + name
        picture(seed, 20, 20).save(os.fsdecode(path))
    age(tree)
    for _ in range(2):  # scanned, then cached
        split = indexed(tree).splits["train"]
        paths = split.paths(tree, np.flatnonzero(split.labels == 2))
        assert {os.fsencode(path.name) for path in paths} >= set(names)
        assert all(path.is_file() for path in paths)


# -- damage ----------------------------------------------------------------------------------


def test_skipped_files_are_recorded_and_shift_no_label(tree: Path) -> None:
    path = tree / "train" / "bee" / "bee_1.png"
    path.write_bytes(path.read_bytes()[:300])
    age(tree)
    for _ in range(2):  # scanned, then cached
        index = indexed(tree, skip=True)
        assert index.corrupt_files == ("train/bee/bee_1.png",)
        assert counts(index) == [3, 2, 3]
        names = [p.name for p in index.splits["train"].paths(tree, range(8))]
        assert names == [
            f"{c}_{i}.png" for c in ("ape", "bee", "cat") for i in range(3) if (c, i) != ("bee", 1)
        ]
    assert counts(indexed(tree)) == [3, 3, 3]


def test_skipping_without_damage_is_the_same_dataset(tree: Path) -> None:
    assert indexed(tree, skip=True).content_hash() == indexed(tree).content_hash()


# -- the cached index ------------------------------------------------------------------------


def test_the_index_is_cached_outside_the_tree(tree: Path, tmp_path: Path) -> None:
    first = indexed(tree)
    config = DatasetConfig("folder", 32, tree, download=True)  # which do not decide the files
    again = open_index(config, never)
    assert again.content_hash() == first.content_hash()
    assert again.classes == first.classes
    assert again.splits["val"].paths(tree, [3, 0]) == first.splits["val"].paths(tree, [3, 0])
    assert len(cache_files(tmp_path)) == 1


def test_a_tree_that_has_just_changed_is_not_cached(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "cat" / "new.txt").write_text("x")
    indexed(tree)
    assert cache_files(tmp_path) == []


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "resized", "class"])
def test_changes_of_the_tree_are_noticed(tree: Path, change: str) -> None:
    before, folder = indexed(tree), tree / "train" / "cat"
    if change == "added":
        picture(77, 9, 9).save(folder / "zz.png")
    elif change == "removed":
        (folder / "cat_0.png").unlink()
    elif change == "renamed":
        (folder / "cat_0.png").rename(folder / "zz.png")
    elif change == "resized":
        (folder / "cat_0.png").unlink()
        picture(1, 33, 33).save(folder / "cat_0.png")
    else:
        for split in ("train", "val"):
            shutil.copytree(tree / split / "cat", tree / split / "dog")
    assert indexed(tree).content_hash() != before.content_hash()


def test_a_damaged_cached_index_is_made_again(tree: Path, tmp_path: Path) -> None:
    before = indexed(tree).content_hash()
    (path,) = cache_files(tmp_path)
    whole = path.read_bytes()
    for broken in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        assert indexed(tree).content_hash() == before
        assert path.read_bytes() == whole
