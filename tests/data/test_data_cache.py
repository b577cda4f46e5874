"""Images decoded once: equal to the files, whole or absent, never larger than the disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.units import Unit
from prism_nb.data import distilled
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.image_io import CorruptImageError, cached_decode, gather, read_images
from prism_nb.data.registry import ValidationHoldout
from prism_nb.execution import disk_space
from prism_nb.models.metrics import batches
from tests.helpers.image_trees import make_tree

PIXELS = torch.arange(300 * 3 * 4 * 4).remainder(251).to(torch.uint8).view(300, 3, 4, 4)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def decode(indices: Sequence[int]) -> Tensor:
    return PIXELS[torch.as_tensor(indices)]


def never(indices: Sequence[int]) -> Tensor:
    raise AssertionError("decoded a second time")


def open_tree(root: Path, size: int = 16) -> ImageFolder:
    return ImageFolder(DatasetConfig("folder", size, root))


def test_what_is_kept_is_what_was_decoded_more_than_one_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    kept = cached_decode(path, decode, count=300, size=4, what="images")
    assert (kept == PIXELS.numpy()).all()
    assert isinstance(kept, np.memmap)
    assert not kept.flags.writeable
    again = cached_decode(path, never, count=300, size=4, what="images")
    assert torch.equal(gather(again, [299, 0, 256, 0]), PIXELS[[299, 0, 256, 0]])
    assert (np.load(path, allow_pickle=False) == PIXELS.numpy()).all()


def test_picked_images_are_a_copy(tmp_path: Path) -> None:
    kept = cached_decode(tmp_path / "a.npy", decode, count=300, size=4, what="images")
    gather(kept, range(300)).zero_()
    assert (kept == PIXELS.numpy()).all()


def test_a_part_of_a_file_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cached_decode(path, decode, count=300, size=4, what="images")
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[:-1], b"x" * len(whole)):
        path.write_bytes(broken)
        assert (
            cached_decode(path, decode, count=300, size=4, what="images") == PIXELS.numpy()
        ).all()
        assert path.read_bytes() == whole


def test_damage_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(indices: Sequence[int]) -> Tensor:
        if indices[0]:
            raise CorruptImageError("image 256 cannot be decoded")
        return decode(indices)

    with pytest.raises(CorruptImageError, match="256"):
        cached_decode(tmp_path / "a.npy", fails, count=300, size=4, what="images")
    assert {path.name for path in tmp_path.iterdir()} <= {"a.lock", "cache"}


def test_too_small_a_disk_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 48))
    with pytest.raises(PrismError, match="PRISM_CACHE"):
        cached_decode(tmp_path / "a.npy", never, count=300, size=4, what="images")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 50))
    assert len(cached_decode(tmp_path / "a.npy", decode, count=300, size=4, what="images")) == 300


def test_a_disk_that_fills_up_on_the_way_is_an_error_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(indices: Sequence[int]) -> Tensor:
        raise OSError(28, "No space left on device")

    with pytest.raises(PrismError, match="No space left on device"):
        cached_decode(tmp_path / "a.npy", full, count=300, size=4, what="images")
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob(".*.part"))


def test_what_a_killed_process_has_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".a.npy.0123abcd.part"
    left.write_bytes(b"x" * 99)
    (tmp_path / ".b.npy.0123abcd.part").write_bytes(b"another file's")
    cached_decode(tmp_path / "a.npy", decode, count=300, size=4, what="images")
    assert [path.name for path in tmp_path.glob(".*.part")] == [".b.npy.0123abcd.part"]


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PrismError, match="PRISM_CACHE"):
        cached_decode(tmp_path / "file" / "a.npy", never, count=300, size=4, what="images")


def test_two_that_want_the_same_file_make_it_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def slowly(indices: Sequence[int]) -> Tensor:
        calls.append(indices[0])
        time.sleep(0.2)
        return decode(indices)

    with ThreadPoolExecutor(3) as threads:
        found = list(
            threads.map(
                lambda _: cached_decode(
                    tmp_path / "a.npy", slowly, count=300, size=4, what="images"
                ),
                range(3),
            )
        )
    assert calls == [0, 256]
    assert all((kept == PIXELS.numpy()).all() for kept in found)


def test_held_out_images_are_those_of_the_files_by_size(tmp_path: Path, cache: Path) -> None:
    tree = make_tree(tmp_path / "t")
    paths = sorted((tree / "val").rglob("*.png"))
    for size in (16, 9):
        dataset, wanted = open_tree(tree, size), [paths[i] for i in (3, 1, 1, 0)]
        few = dataset.images("val", [3, 1, 1, 0])
        assert dataset.uncached_bytes("val")  # a few are no reason to decode all
        dataset.cache("val")
        assert torch.equal(few, read_images(wanted, size))
        assert torch.equal(dataset.images("val", [3, 1, 1, 0]), few)
    assert len(list((cache / "decoded").glob("*.npy"))) == 2
    assert dataset.images("val", []).shape == (0, 3, 9, 9)


def test_held_out_images_are_read_once_and_a_moved_tree_finds_them(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    dataset = open_tree(tree)
    (first, _), *others = batches(dataset, "val", torch.device("cpu"))
    assert not others
    for path in (tree / "val").rglob("*.png"):
        path.write_bytes(b"\0" * path.stat().st_size)
    tree.rename(tmp_path / "moved")
    moved = open_tree(tmp_path / "moved")
    assert torch.equal(moved.normalize(moved.images("val", range(4))), first)


def test_a_place_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        open_tree(make_tree(tmp_path / "t")).images("val", [4])


# -- training images -------------------------------------------------------------------------


def kept_files(cache: Path) -> list[int]:
    """Return the sizes of the cache's decoded images, without their headers."""
    return sorted(path.stat().st_size - 128 for path in cache.glob("decoded/*.npy"))


def test_training_images_are_decoded_once_if_asked_for_and_never_before(
    tmp_path: Path, cache: Path
) -> None:
    images = open_tree(make_tree(tmp_path / "t", train=4))
    before = images.images("train", [5, 0, 3])
    assert kept_files(cache) == []
    assert images.uncached_bytes("train") == 8 * 3 * 16 * 16
    images.cache("train")
    assert kept_files(cache) == [8 * 3 * 16 * 16]
    assert images.uncached_bytes("train") == 0
    assert torch.equal(images.images("train", [5, 0, 3]), before)


def test_kept_training_images_need_no_files_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "t")
    whole = open_tree(tree).images("train", range(6))
    open_tree(tree).cache("train")
    again = open_tree(tree)
    monkeypatch.setattr(ImageFolder, "_decode", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(again.images("train", range(6)), whole)


def test_damaged_training_images_are_named_and_nothing_is_kept(tmp_path: Path, cache: Path) -> None:
    tree = make_tree(tmp_path / "t")
    images = open_tree(tree)
    (tree / "train" / "bee" / "bee_1.png").write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=r"bee_1\.png"):
        images.cache("train")
    assert kept_files(cache) == []


def test_too_small_a_disk_says_which_images(tmp_path: Path, monkeypatch: Any) -> None:
    images = open_tree(make_tree(tmp_path / "t"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=99))
    with pytest.raises(PrismError, match="decoded training images take .* PRISM_CACHE"):
        images.cache("train")


def test_the_bar_names_images_and_size_and_is_hidden_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree(tmp_path / "t")
    ImageFolder(DatasetConfig("folder", 16, tree, progress=False)).cache("train")
    assert "decoding" not in capsys.readouterr().err
    open_tree(tree, size=24).cache("train")
    assert "decoding 6 training images once, 0.00 GB in " in capsys.readouterr().err


def test_progress_is_of_no_account_for_which_dataset_it_is(tmp_path: Path) -> None:
    quiet, loud = (DatasetConfig("folder", 16, tmp_path, progress=shown) for shown in (False, True))
    assert quiet == loud
    assert hash(quiet) == hash(loud)


def test_progress_is_of_no_account_for_the_kept_index(tmp_path: Path, cache: Path) -> None:
    tree = make_tree(tmp_path / "t")
    before = time.time() - 10
    for folder in (tree, *tree.rglob("*/")):
        os.utime(folder, (before, before))
    for shown in (False, True):
        ImageFolder(DatasetConfig("folder", 16, tree, progress=shown))
    assert len(list((cache / "index").iterdir())) == 1


def test_a_class_too_small_to_be_cut_in_two_is_named(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", train=8)
    small = min((tree / "train").iterdir())
    for path in sorted(small.iterdir())[3:]:
        path.unlink()
    words = f"class '{small.name}' of .* has 3; leave it out .* eval_split test"
    with pytest.raises(UsageError, match=words):
        ValidationHoldout(open_tree(tree))


def test_a_tuning_quarter_is_decoded_once_into_a_file_of_its_own(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "t", train=8)
    direct = open_tree(tree)
    tuning = ValidationHoldout(open_tree(tree))
    held_out = tuning._indices["val"].tolist()
    wanted = direct.images("train", held_out)
    assert torch.equal(tuning.images("val", range(4)), wanted)
    tuning.cache("val")
    assert torch.equal(tuning.images("val", range(4)), wanted)
    assert kept_files(cache) == [4 * 3 * 16 * 16]
    again = ValidationHoldout(open_tree(tree))
    monkeypatch.setattr(ImageFolder, "_decode", lambda *_: pytest.fail("decoded again"))
    again.cache("val")
    assert torch.equal(again.images("val", [3, 1]), wanted[[3, 1]])


def test_a_tuning_split_reads_from_all_kept_training_images(tmp_path: Path, cache: Path) -> None:
    tuning = ValidationHoldout(open_tree(make_tree(tmp_path / "t", train=8)))
    assert tuning.uncached_bytes("train") == 16 * 3 * 16 * 16
    tuning.cache("train")
    assert tuning.uncached_bytes("train") == tuning.uncached_bytes("val") == 0
    tuning.images("val", range(4))
    tuning.images("train", range(12))
    assert kept_files(cache) == [16 * 3 * 16 * 16]


@pytest.mark.parametrize(
    ("units", "wanted"),
    [
        ([], 0),
        ([Unit("synthesis", "a", "m", "b", {"method": "prism"})], 0),
        ([Unit("squeeze", "a", "m", "b", {"network": "resnet18"})], 6 + 4),
        ([Unit("squeeze", "a", "m", "b", {"network": "resnet18@DEFAULT"})], 4),
        ([Unit("squeeze", "a", "m", "b", {"network": "resnet18", "patch": 4})], 4),
        ([Unit("evaluation", "a", "m", "b", {"method": "prism"})], 4),
        ([Unit("evaluation", "a", "m", "b", {"method": "real"})], 6 + 4),
    ],
)
def test_a_plan_counts_what_is_decoded_for_many_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: list[Unit], wanted: int
) -> None:
    tree = open_tree(make_tree(tmp_path / "t"))
    monkeypatch.setattr(disk_space, "open_dataset", lambda _: tree)
    run = SimpleNamespace(settings=SimpleNamespace(image_size=16, ipc=1))
    assert disk_space.cache_bytes(run, units) == wanted * 3 * 16 * 16


def test_a_plan_counts_the_large_sets_that_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = open_tree(make_tree(tmp_path / "t"))
    monkeypatch.setattr(disk_space, "open_dataset", lambda _: tree)
    monkeypatch.setattr(distilled, "MAX_DECODED_BYTES", 3 * 16 * 16)
    run = SimpleNamespace(settings=SimpleNamespace(image_size=16, ipc=1))
    a_set = len(tree.classes) * 3 * 16 * 16
    methods = ("real", "prism", "rded")
    units = [Unit("diversity", m, "m", "b", {"method": m}) for m in methods]
    units += [Unit("relabel", m, "m", "b", {"method": m}) for m in methods[1:]]
    decoded: list[str] = []
    monkeypatch.setattr(disk_space, "is_decoded", lambda _, name, __: name in decoded)
    assert disk_space.cache_bytes(run, units) == 3 * a_set
    decoded.append("prism")
    assert disk_space.cache_bytes(run, units) == 2 * a_set
