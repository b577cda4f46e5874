"""Datasets of image files: layout, classes, order, and what is refused before work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder as Torchvision

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.index import (
    DatasetConfig,
)
from prism_nb.data.registry import open_dataset, with_dataset_hash
from tests.helpers.image_trees import age, make_tree, picture


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", ("cat", "Ant", "bee10", "bee9"))


def source(
    root: Path | None, *class_list: str, size: int = 16, skip: bool = False
) -> DatasetConfig:
    return DatasetConfig("folder", size, root, class_list=class_list, skip_corrupt=skip)


def refusal(root: Path | None, *class_list: str) -> str:
    with pytest.raises(UsageError) as caught:
        ImageFolder(source(root, *class_list))
    return str(caught.value)


def settings_of(root: Path, **changes: object) -> Settings:
    return load_settings("digits_quick", {"dataset": "folder", "data_dir": str(root), **changes})


# -- classes and order -----------------------------------------------------------------------


def test_classes_files_and_labels_are_in_torchvisions_order(tree: Path) -> None:
    mine, theirs = ImageFolder(source(tree)), Torchvision(tree / "train")
    assert [info.folder for info in mine.classes] == theirs.classes
    assert mine.labels("train").tolist() == theirs.targets
    paths = mine._index.splits["train"].paths(tree, range(len(theirs)))
    assert [str(path) for path in paths] == [path for path, _ in theirs.samples]


@pytest.mark.parametrize("held_out", ["val", "validation", "test"])
def test_held_out_images_are_found_by_any_of_three_names(tmp_path: Path, held_out: str) -> None:
    dataset = ImageFolder(source(make_tree(tmp_path / "t", held_out=held_out)))
    assert dataset.labels("val").tolist() == [0, 0, 1, 1]
    assert dataset.labels("train").tolist() == [0, 0, 0, 1, 1, 1]


def test_a_class_list_chooses_and_orders(tree: Path) -> None:
    whole, part = ImageFolder(source(tree)), ImageFolder(source(tree, "cat", "Ant"))
    assert [info.folder for info in part.classes] == ["cat", "Ant"]
    old = {info.folder: info.index for info in whole.classes}
    for info in part.classes:
        places = whole.class_indices("val", old[info.folder]).tolist()
        mine = part.images("val", part.class_indices("val", info.index).tolist())
        assert (mine == whole.images("val", places)).all()


def test_of_class_is_what_the_base_class_finds(tree: Path) -> None:
    dataset = ImageFolder(source(tree))
    for c in range(4):
        assert (
            dataset.class_indices("train", c) == ImageDataset.class_indices(dataset, "train", c)
        ).all()


def test_wordnet_ids_get_imagenets_names(tmp_path: Path) -> None:
    dataset = ImageFolder(source(make_tree(tmp_path / "t", ("n01440764", "n00000000", "n1"))))
    assert [info.name for info in dataset.classes] == ["n00000000", "tench, Tinca tinca", "n1"]


def test_endings_count_in_any_case_and_junk_is_overlooked(tree: Path) -> None:
    folder = tree / "train" / "cat"
    for name in ("a.JPG", "b.Jpeg", "c.WEBP"):
        picture(1, 9, 9).save(folder / name, format="JPEG")
    for name in (".DS_Store", "Thumbs.db", "._a.jpg", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    dataset = ImageFolder(source(tree))
    assert np.bincount(dataset.labels("train")).tolist() == [3, 3, 3, 6]


# -- mean and deviation ----------------------------------------------------------------------


def test_mean_and_deviation_are_those_of_the_pixels_and_are_kept(tree: Path) -> None:
    dataset = ImageFolder(source(tree))
    pixels = dataset.images("train", range(len(dataset.labels("train")))).numpy() / 255.0
    assert np.abs(pixels.mean((0, 2, 3)) - dataset.mean).max() <= 5.1e-5
    assert np.abs(pixels.std((0, 2, 3)) - dataset.std).max() <= 5.1e-5
    for path in (tree / "train").rglob("*.png"):
        path.write_bytes(b"no image any more")
    again = ImageFolder(source(tree, size=16))
    assert (again.mean, again.std) == (dataset.mean, dataset.std)


# -- what is refused -------------------------------------------------------------------------


def test_a_missing_setting_or_folder_is_named(tmp_path: Path) -> None:
    assert "needs data_dir" in refusal(None)
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


def test_a_missing_split_is_named(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "val")
    assert "no folder of held-out images" in refusal(tree)
    (tmp_path / "bare").mkdir()
    assert "'train'" in refusal(tmp_path / "bare")


def test_two_held_out_folders_are_one_too_many(tree: Path) -> None:
    shutil.copytree(tree / "val", tree / "test")
    assert "val and test" in refusal(tree)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_is_named_with_its_split(tree: Path, split: str) -> None:
    for path in (tree / split / "cat").iterdir():
        path.unlink()
    message = refusal(tree)
    assert "'cat'" in message
    assert f"no {split} image" in message
    assert len(ImageFolder(source(tree, "Ant", "bee9")).classes) == 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_in_one_split_only_is_named_with_the_other(tree: Path, split: str) -> None:
    shutil.rmtree(tree / split / "cat")
    message = refusal(tree)
    assert "'cat'" in message
    assert str(tree / split) in message
    assert len(ImageFolder(source(tree, "Ant", "bee9")).classes) == 2


def test_no_classes_at_all_is_said(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "t" / split).mkdir(parents=True)
    assert "holds no folder" in refusal(tmp_path / "t")


def test_files_that_are_no_images_are_counted_and_named(tree: Path) -> None:
    for name in ("film.mp4", "noending"):
        (tree / "val" / "cat" / name).write_bytes(b"x")
    (tree / "train" / "Ant" / "images").mkdir()
    assert "1 entries" in refusal(tree)
    assert "train/Ant/images" in refusal(tree)
    (tree / "train" / "Ant" / "images").rmdir()
    assert "2 entries" in refusal(tree)
    assert "film.mp4" in refusal(tree)


def test_an_unknown_class_is_refused_with_the_nearest(tree: Path) -> None:
    message = refusal(tree, "cat", "bee8")
    assert "1 of 2" in message
    assert "'bee9'" in message


# -- damage ----------------------------------------------------------------------------------


def damage(tree: Path) -> Path:
    path = tree / "train" / "bee9" / "bee9_1.png"
    path.write_bytes(path.read_bytes()[:300])
    return path


def test_a_damaged_image_is_named_when_it_is_read(tree: Path) -> None:
    path = damage(tree)
    with pytest.raises(Exception, match=r"bee9_1\.png.*skip_corrupt"):
        ImageFolder(source(tree))
    assert path.is_file()


def test_skipped_damage_is_recorded_and_shifts_nothing_later(tree: Path) -> None:
    damage(tree)
    age(tree)
    first = ImageFolder(source(tree, skip=True))
    kept = ImageFolder(source(tree, skip=True))
    for dataset in (first, kept):
        assert dataset.corrupt_files == ("train/bee9/bee9_1.png",)
        assert np.bincount(dataset.labels("train")).tolist() == [3, 3, 2, 3]
    assert len(first.labels("train")) == 11
    assert (kept.images("train", range(11)) == first.images("train", range(11))).all()


def test_skipping_without_damage_is_the_same_dataset(tree: Path) -> None:
    assert (
        ImageFolder(source(tree, skip=True)).content_hash == ImageFolder(source(tree)).content_hash
    )


# -- settings --------------------------------------------------------------------------------


def test_relative_folders_and_class_files_are_spelled_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRISM_HOME", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tree.parent)
    Path("chosen.txt").write_text("# mine\ncat\n\nAnt\n")
    changes = {"dataset": "folder", "data_dir": "tree", "class_list": "chosen.txt"}
    settings = load_settings("digits_quick", changes)
    assert settings.data_dir == str(tree)
    assert settings.class_list == ("cat", "Ant")
    assert [info.folder for info in open_dataset(settings).classes] == ["cat", "Ant"]


def test_a_class_file_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"class_list.*nowhere\.txt"):
        settings_of(tree, class_list="nowhere.txt")


def test_a_class_named_twice_is_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match="class_list: cat is named twice"):
        settings_of(tree, class_list=["cat", "cat"])


def test_content_follows_the_files_and_not_their_place(tree: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(tree, moved)
    (moved / "val").rename(moved / "validation")
    here, there = with_dataset_hash(settings_of(tree)), with_dataset_hash(settings_of(moved))
    assert here.dataset_hash
    assert here.dataset_hash == there.dataset_hash
    fewer = with_dataset_hash(settings_of(tree, class_list=["cat", "Ant"]))
    other = with_dataset_hash(settings_of(tree, class_list=["Ant", "cat"]))
    assert len({here.dataset_hash, fewer.dataset_hash, other.dataset_hash}) == 3


def test_content_follows_the_sizes_of_files(tree: Path) -> None:
    before = ImageFolder(source(tree)).content_hash
    path = tree / "train" / "cat" / "cat_0.png"
    path.unlink()
    picture(1, 33, 33).save(path)
    assert ImageFolder(source(tree)).content_hash != before


def test_other_files_than_asked_for_are_refused(tree: Path, tmp_path: Path) -> None:
    bound = with_dataset_hash(settings_of(tree))
    other = make_tree(tmp_path / "other", ("cat", "Ant", "bee10", "bee9"), train=4)
    with pytest.raises(UsageError, match="not those asked for"):
        open_dataset(bound.model_copy(update={"data_dir": str(other)}))
    assert len(open_dataset(bound).classes) == 4


def test_the_embedded_digits_take_no_folder(tmp_path: Path) -> None:
    changes = {"data_dir": str(tmp_path)}
    with pytest.raises(UsageError, match="digits is embedded"):
        open_dataset(load_settings("digits_quick", changes))
    assert with_dataset_hash(load_settings("digits_quick")).dataset_hash is None


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_beside_class_folders_are_refused(tree: Path, split: str) -> None:
    for name in ("zz.PNG", "loose.jpeg", "notes.md"):
        (tree / split / name).write_bytes(b"x")
    message = refusal(tree)
    assert f"2 images lie beside the class folders of {tree / split}, e.g. loose.jpeg" in message
    assert refusal(tree, "cat") == message


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_folder_of_an_empty_class_is_named(tree: Path, split: str) -> None:
    for path in (tree / split / "bee9").iterdir():
        path.unlink()
    assert f"1 of 4 classes have no {split} image, e.g. 'bee9' (in {split}/bee9)" in refusal(tree)


# -- the kept index --------------------------------------------------------------------------


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "index").glob("*.npz"))


def test_the_index_is_kept_outside_and_read_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ImageFolder(source(tree))
    assert len(kept_files(tmp_path)) == 1
    monkeypatch.setattr("prism_nb.data.index._scan", None)
    again = ImageFolder(source(tree))
    assert (again.images("val", [3, 0]) == first.images("val", [3, 0])).all()
    assert again.class_records() == first.class_records()
    assert again.content_hash == first.content_hash


def test_a_tree_that_has_just_changed_is_not_kept(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "cat" / "new.txt").write_text("x")
    ImageFolder(source(tree))
    assert kept_files(tmp_path) == []


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "class", "second"])
def test_what_is_added_removed_or_renamed_is_noticed(tree: Path, change: str) -> None:
    before, folder = ImageFolder(source(tree)), tree / "train" / "cat"
    if change == "added":
        picture(77, 9, 9).save(folder / "zz.png")
    elif change == "removed":
        (folder / "cat_0.png").unlink()
    elif change == "renamed":
        (folder / "cat_0.png").rename(folder / "zz.png")
    elif change == "class":
        for split in ("train", "val"):
            shutil.copytree(tree / split / "cat", tree / split / "dog")
    else:
        shutil.copytree(tree / "val", tree / "test")
        assert "val and test" in refusal(tree)
        return
    assert ImageFolder(source(tree)).content_hash != before.content_hash


def test_names_in_any_script_or_encoding_survive(tree: Path) -> None:
    names = [b"\xff\xfe.png", "Äpfel ü.png".encode(), "写真.png".encode(), b"two\nlines.png"]
    folder = os.fsencode(tree / "train" / "cat")
    for seed, name in enumerate(names):
        picture(seed, 20, 20).save(os.fsdecode(folder + b"/" + name))
    age(tree)
    for _ in range(2):
        dataset = ImageFolder(source(tree))
        paths = dataset._index.splits["train"].paths(
            tree, dataset.class_indices("train", 3).tolist()
        )
        assert {os.fsencode(path.name) for path in paths} >= set(names)
        assert dataset.images("train", range(16)).shape == (16, 3, 16, 16)


def test_a_damaged_kept_index_is_made_again(tree: Path, tmp_path: Path) -> None:
    before = ImageFolder(source(tree))
    (path,) = kept_files(tmp_path)
    whole = path.read_bytes()
    for broken in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        assert ImageFolder(source(tree)).content_hash == before.content_hash
        assert path.read_bytes() == whole
