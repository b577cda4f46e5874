"""The index of an image tree: what is listed, ignored and refused, and when it is read again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.image_folder import folder_layout
from prism_nb.data.index import Index, open_index
from tests.helpers.image_trees import make_tree, picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", ("ape", "bee", "cat"))


def indexed(root: Path) -> Index:
    return open_index(DatasetConfig("folder", 16, root), folder_layout)


def never(root: Path, class_list: object) -> None:
    raise AssertionError("the tree was read again")


def test_suffixes_count_in_any_case_and_litter_is_ignored(tree: Path) -> None:
    folder = tree / "train" / "cat"
    for name in ("a.JPG", "b.Jpeg", "c.WEBP", ".DS_Store", "Thumbs.db", "._a.jpg", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    assert np.bincount(indexed(tree).splits["train"].labels).tolist() == [3, 3, 6]


def test_names_in_any_script_or_encoding_survive(tree: Path) -> None:
    names = [b"\xff\xfe.png", "Äpfel ü.png".encode(), "写真.png".encode(), b"two\nlines.png"]
    for seed, name in enumerate(names):
        path = os.fsencode(tree / "train" / "cat") + b"/" + name
        picture(seed, 20, 20).save(os.fsdecode(path))
    for _ in range(2):  # scanned, then cached
        split = indexed(tree).splits["train"]
        paths = split.paths(tree, np.flatnonzero(split.labels == 2))
        assert {os.fsencode(path.name) for path in paths} >= set(names)
        assert all(path.is_file() for path in paths)


def test_the_index_is_cached_outside_the_tree(tree: Path, tmp_path: Path) -> None:
    first = indexed(tree)
    config = DatasetConfig("folder", 32, tree, download=True)  # which do not decide the files
    again = open_index(config, never)
    assert again.content_hash() == first.content_hash()
    assert again.classes == first.classes
    assert again.splits["val"].paths(tree, [3, 0]) == first.splits["val"].paths(tree, [3, 0])
    (path,) = tmp_path.glob("cache/index/*.npz")
    whole = path.read_bytes()
    for broken in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        assert indexed(tree).content_hash() == first.content_hash()
        assert path.read_bytes() == whole


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
