"""Datasets by name, the images that a run is bound to, and the held-out quarter of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import network_unit
from prism_nb.data.dataset import DatasetConfig, ImageDataset, Split
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.registry import (
    ValidationHoldout,
    open_dataset,
    with_dataset_hash,
)
from prism_nb.data.small import Digits
from prism_nb.execution.open_run import load_run, open_run
from tests.helpers.image_trees import make_tree, picture


def settings_of(root: Path, **changes: object) -> Settings:
    values = {"dataset": "folder", "data_dir": str(root), **changes}
    return with_dataset_hash(load_settings("digits_quick", values))


def test_digits_take_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digits comes with the kit"):
        open_dataset(load_settings("digits_quick", {"data_dir": str(tmp_path)}))
    assert with_dataset_hash(load_settings("digits_quick")).dataset_hash is None


def test_relative_folders_and_class_files_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree", ("cat", "Ant", "bee"))
    monkeypatch.setenv("PRISM_HOME", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    Path("chosen.txt").write_text("# mine\ncat\n\nAnt\n")
    changes = {"dataset": "folder", "data_dir": "tree", "class_list": "chosen.txt"}
    settings = load_settings("digits_quick", changes)
    assert settings.data_dir == str(tree)
    assert [info.folder for info in open_dataset(settings).classes] == ["cat", "Ant"]


# -- what a run is bound to ------------------------------------------------------------------


def test_the_hash_depends_on_files_and_classes_not_on_the_place(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", ("a", "b"))
    here = settings_of(tree)
    tree.rename(tmp_path / "moved")
    there = settings_of(tmp_path / "moved")
    same = settings_of(tmp_path / "moved", class_list=["a", "b"], download=True)
    assert here.dataset_hash == there.dataset_hash == same.dataset_hash
    units = {network_unit(each, each.primary).fingerprint for each in (here, there, same)}
    assert len(units) == 1
    hashes = {
        settings_of(tmp_path / "moved", class_list=names).dataset_hash
        for names in ([], ["a"], ["b", "a"])
    }
    assert len(hashes) == 3


def test_a_run_refuses_other_images_than_it_began_with(tmp_path: Path) -> None:
    where = {"run_name": "r", "runs_dir": tmp_path / "runs"}
    changes = {"dataset": "folder", "data_dir": str(make_tree(tmp_path / "t", ("a", "b")))}
    run = load_run(**where, preset="digits_quick", changes=changes)
    unit = network_unit(run.settings, run.settings.primary)
    Run.create(run.path, run.settings).units.finish(unit, paths=[], record={})
    other = make_tree(tmp_path / "o", ("a", "b"))
    picture(9, 9, 9).save(other / "train" / "a" / "zz.png")
    with pytest.raises(UsageError, match="are not the run's"):
        open_run(**where, changes={"data_dir": str(other)})
    changes = {**changes, "data_dir": str(other)}
    with pytest.raises(UsageError, match="dataset_hash is"):
        open_run(**where, preset="digits_quick", changes=changes)


# -- the held-out quarter of a search --------------------------------------------------------


class SealedDigits(Digits):
    """Digits whose held-out images must not be read."""

    def labels(self, split: Split) -> np.ndarray:
        assert split == "train", "the test labels were read"
        return super().labels(split)

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        assert split == "train", "the test images were read"
        return super().images(split, indices)


def train_indices(holdout: ValidationHoldout, dataset: ImageDataset, split: Split) -> list[int]:
    """Find the images of a split among the training images, by their pixels."""
    found: dict[bytes, list[int]] = {}
    for index, image in enumerate(dataset.images("train", range(len(dataset.labels("train"))))):
        found.setdefault(image.numpy().tobytes(), []).append(index)
    images = holdout.images(split, range(len(holdout.labels(split))))
    return [found[image.numpy().tobytes()].pop(0) for image in images]


def test_the_training_images_are_split_and_no_others_opened() -> None:
    digits = SealedDigits(16)
    holdout = ValidationHoldout(digits)
    train, val = (train_indices(holdout, digits, split) for split in ("train", "val"))
    assert sorted([*train, *val]) == list(range(len(digits.labels("train"))))
    assert (holdout.labels("train") == digits.labels("train")[train]).all()
    assert (holdout.labels("val") == digits.labels("train")[val]).all()
    assert train == sorted(train)
    assert val == sorted(val)
    holdout.check_per_class(1, purpose="x")


def test_the_pixel_space_is_the_same_in_a_search_and_after_it() -> None:
    digits = Digits(16)
    holdout = ValidationHoldout(digits)
    assert (holdout.mean, holdout.std) == (digits.mean, digits.std)
    assert (holdout.classes, holdout.image_size) == (digits.classes, 16)
    assert holdout.name != digits.name


def test_a_run_scores_on_test_images_unless_it_is_a_search() -> None:
    plain = open_dataset(load_settings("digits_quick"))
    search = open_dataset(load_settings("digits_quick", {"eval_split": "tuning"}))
    assert [len(plain.labels(split)) for split in ("train", "val")] == [1257, 540]
    assert [len(search.labels(split)) for split in ("train", "val")] == [1257 - 315, 315]
    assert open_dataset(load_settings("digits_quick", {"eval_split": "tuning"})) is search


def test_a_class_too_small_to_be_split_is_named(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", train=8)
    for path in sorted((tree / "train" / "ape").iterdir())[3:]:
        path.unlink()
    with pytest.raises(
        UsageError, match=r"class 'ape' of .* has 3 images; leave it out .* eval_split"
    ):
        ValidationHoldout(open_tree(tree))


def open_tree(root: Path) -> ImageFolder:
    return ImageFolder(DatasetConfig("folder", 16, root))


def test_a_search_reads_from_all_cached_training_images(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", train=8)
    holdout = ValidationHoldout(open_tree(tree))
    expected = holdout.images("val", range(4))
    assert holdout.uncached_bytes(["val"]) == 16 * 3 * 16 * 16
    assert holdout.uncached_bytes(["train", "val"]) == 16 * 3 * 16 * 16
    holdout.cache("val")
    assert holdout.uncached_bytes(["train", "val"]) == 0
    for path in tree.rglob("*.png"):
        path.write_bytes(b"\0" * path.stat().st_size)
    again = ValidationHoldout(open_tree(tree))
    assert torch.equal(again.images("val", [3, 1]), expected[[3, 1]])
