"""Damaged files that stop a run: restored, it goes on; nothing else may change."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.config import default_runs_dir
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.manifest import has_results
from prism_nb.core.run import Run
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.image_io import CorruptImageError
from prism_nb.data.index import DatasetConfig
from prism_nb.data.registry import _open
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.models.weights import to_safetensors
from prism_nb.models.zoo import build_network
from tests.helpers.image_trees import age, make_tree, picture

WNIDS = ["n01440764", "n02102040", "n02979186"]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    _open.cache_clear()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", WNIDS, train=4, side=32)


def opened(root: Path, *, skip: bool = False) -> ImageFolder:
    return ImageFolder(
        DatasetConfig("imagenet1k", 16, root, skip_corrupt=skip), channels=((0.5,) * 3,) * 2
    )


def place_of(root: Path, path: Path) -> int:
    index = opened(root)._index.splits["train"]
    return [str(p) for p in index.paths(root, range(len(index.names)))].index(str(path))


def cut(path: Path, share: float = 0.5) -> bytes:
    """Cut a file off, and return what it was."""
    whole = path.read_bytes()
    replace(path, whole[: int(len(whole) * share)])
    return whole


def replace(path: Path, content: bytes) -> None:
    """Put a file in another's place, as whoever unpacks it again does."""
    path.unlink()
    path.write_bytes(content)


def fail_at(dataset: ImageFolder, place: int) -> None:
    with pytest.raises(CorruptImageError):
        dataset.images("train", [0, place])


# -- the rule --------------------------------------------------------------------------------


@pytest.fixture
def path(tree: Path) -> Path:
    return tree / "train" / WNIDS[1] / f"{WNIDS[1]}_2.png"


def test_a_file_that_was_damaged_from_the_start_may_be_restored(tree: Path, path: Path) -> None:
    place, whole = 6, cut(path)
    assert place_of(tree, path) == place
    began = opened(tree).content
    fail_at(opened(tree), place)
    assert opened(tree).content == began
    replace(path, whole)
    assert opened(tree).content == began
    shutil.move(tree, tree.parent / "moved")
    assert opened(tree.parent / "moved").content == began


def test_without_damage_no_file_may_change(tree: Path, path: Path) -> None:
    cut(path)
    began = opened(tree).content
    other = picture(99, 40, 40)
    path.unlink()
    other.save(path)
    assert opened(tree).content != began


def test_what_was_restored_stands_from_then_on(tree: Path, path: Path) -> None:
    whole = cut(path)
    began = opened(tree).content
    fail_at(opened(tree), 6)
    replace(path, whole)
    assert opened(tree).content == began
    path.unlink()
    picture(99, 50, 50).save(path)
    assert opened(tree).content != began
    replace(path, whole)
    assert opened(tree).content == began


def test_a_file_restored_badly_may_be_restored_again(tree: Path, path: Path) -> None:
    whole = cut(path)
    began = opened(tree).content
    fail_at(opened(tree), 6)
    replace(path, whole[: len(whole) * 3 // 4])
    fail_at(opened(tree), 6)
    replace(path, whole)
    assert opened(tree).content == began


def test_a_file_that_was_whole_must_become_what_it_was(tree: Path, path: Path) -> None:
    dataset, whole = opened(tree), path.read_bytes()
    cut(path)
    fail_at(dataset, 6)
    age(tree)
    path.unlink()
    picture(99, 50, 50).save(path)
    assert opened(tree).content != dataset.content
    replace(path, whole)
    assert opened(tree).content == dataset.content


def test_another_file_may_not_change_beside_a_restored_one(tree: Path, path: Path) -> None:
    whole = cut(path)
    began = opened(tree).content
    fail_at(opened(tree), 6)
    replace(path, whole)
    second = path.with_name(f"{WNIDS[1]}_0.png")
    second.unlink()
    picture(98, 45, 45).save(second)
    assert opened(tree).content != began


def test_a_run_of_the_whole_tree_is_not_lost_by_a_later_damage(tree: Path, path: Path) -> None:
    before = opened(tree).content
    whole = cut(path)
    later = opened(tree).content
    assert later != before
    fail_at(opened(tree), 6)
    replace(path, whole)
    restored = opened(tree)
    assert restored.content == before
    assert restored.fits(later)
    assert not restored.fits("0" * 16)


@pytest.mark.parametrize("place", [10, 30, 60, -30])
def test_damaged_notes_and_indices_are_made_anew(tree: Path, place: int, tmp_path: Path) -> None:
    content = opened(tree).content
    kept = [*(tmp_path / "cache").rglob("*.npz"), *default_runs_dir().rglob(f"{content}.npz")]
    assert kept
    for path in kept:
        spoilt = bytearray(path.read_bytes())
        for offset in range(4):
            spoilt[place + offset] ^= 0x5A
        path.write_bytes(spoilt)
    _open.cache_clear()
    assert opened(tree).content == content


def test_where_nothing_can_be_kept_the_rule_is_strict(
    tree: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("prism_nb.data.index.default_runs_dir", lambda: tmp_path / "file")
    whole = cut(path)
    began = opened(tree).content
    fail_at(opened(tree), 6)
    replace(path, whole)
    assert opened(tree).content != began


# -- in a run --------------------------------------------------------------------------------


@pytest.fixture
def asked(tree: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a run whose first stage meets no training image."""
    weights = tmp_path / "w.safetensors"
    network = build_network("test_resnet", classes=3, image_size=32)
    note = {
        "space": {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32, "interpolation": "bilinear"},
        "classes": WNIDS,
    }
    weights.write_bytes(to_safetensors(network.state_dict(), note))
    return {
        "dataset": "imagenet1k",
        "class_list": WNIDS,
        "data_dir": str(tree),
        "teachers": [f"test_resnet@{weights}"],
        "primary": f"test_resnet@{weights}",
        "holdout_networks": [f"timm/test_resnet@{weights}"],
        "students": ["test_resnet"],
        "student_seeds": 1,
        "methods": ["random_real"],
        "ipc": 4,  # all training images
        "label_epochs": 1,
        "real_per_class": 2,
        "squeeze_batch": 6,
        "device": "cpu",
    }


def begin(
    tmp_path: Path,
    asked: dict[str, Any],
    name: str = "r",
    stages: Sequence[str] = tuple(pipeline.STAGES),
) -> Run:
    """Do what a process does that begins or continues a run by its preset."""
    _open.cache_clear()
    run = open_run_module.open_run(
        run_name=name, preset="digits_quick", runs_dir=tmp_path / "runs", changes=asked
    )
    for stage in stages:
        pipeline.execute(run, stage)
    return run


@pytest.mark.filterwarnings("ignore:network")
@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_a_run_that_a_damaged_file_stops_goes_on_once_it_is_restored(
    tmp_path: Path, tree: Path, asked: dict[str, Any], how: str
) -> None:
    path = tree / "train" / WNIDS[2] / f"{WNIDS[2]}_1.png"
    whole = cut(path)
    age(tree)
    with pytest.raises(PrismError, match=rf"{path.name} cannot .* the same command goes on"):
        begin(tmp_path, asked)
    run = Run.open(tmp_path / "runs" / "r")
    assert has_results(run.path, "squeeze")
    assert not has_results(run.path, "synthesis")
    if how == "in place":
        path.write_bytes(whole)
        shutil.rmtree(tmp_path / "cache")  # which else hides the new size
    else:
        replace(path, whole)
        asked["data_dir"] = str(tree.rename(tmp_path / "moved"))
    done = begin(tmp_path, asked)
    assert done.settings.dataset_hash == run.settings.dataset_hash
    assert not pipeline.check(done, "evaluation").missing
    _open.cache_clear()
    assert (
        open_run_module.open_run(run_name="r", runs_dir=tmp_path / "runs").settings == done.settings
    )


@pytest.mark.filterwarnings("ignore:network")
def test_leaving_damaged_images_out_takes_another_run(
    tmp_path: Path, tree: Path, asked: dict[str, Any]
) -> None:
    path = tree / "train" / WNIDS[2] / f"{WNIDS[2]}_1.png"
    cut(path)
    with pytest.raises(PrismError, match="begin another run with skip_corrupt set to true"):
        begin(tmp_path, asked)
    left_out = {**asked, "skip_corrupt": True, "ipc": 3}
    with pytest.raises(UsageError, match="dataset_hash is .* Choose another run name"):
        begin(tmp_path, left_out)
    _open.cache_clear()
    with pytest.raises(
        UsageError, match="skip_corrupt that the run began with .*, or choose another"
    ):
        open_run_module.open_run(
            run_name="r", runs_dir=tmp_path / "runs", changes={"skip_corrupt": True}
        )
    run = begin(tmp_path, left_out, "other", ("teachers", "synthesis"))
    assert run.manifest()["images_left_out"] == [str(path.relative_to(tree))]
    assert not pipeline.check(run, "synthesis").missing
