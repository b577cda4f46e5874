"""ImageNet-1K and Tiny-ImageNet: class order, held-out images that lie flat, what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from timm.data.imagenet_info import ImageNetInfo

from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import DatasetConfig, ImageDataset
from prism_nb.data.image_io import read_images
from prism_nb.data.imagenet import imagenet1k, tiny_imagenet
from tests.helpers.image_trees import age, make_tree, picture

WNIDS = ("n01443537", "n01440764", "n03393912")  # goldfish, tench, freight car
FLAT = {1: 2, 2: 0, 3: 1, 4: 0, 5: 2}  # number of a held-out image -> its class in WNIDS


def file_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A tree of three classes whose held-out images lie flat, with no list yet."""
    root = make_tree(tmp_path / "flat", WNIDS)
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    for number in FLAT:
        picture(number, 20, 20).save(root / "val" / file_name(number))
    age(root)
    return root


def opened(root: Path, *class_list: str) -> ImageDataset:
    return imagenet1k(DatasetConfig("imagenet1k", 16, root, class_list=class_list or WNIDS))


def refusal(root: Path, *class_list: str) -> str:
    with pytest.raises(UsageError) as caught:
        opened(root, *class_list)
    return str(caught.value)


def write_list(root: Path, how: str) -> None:
    wnids = {number: WNIDS[c] for number, c in FLAT.items()}
    if how == "list":
        lines = [f"{file_name(number)} {wnid}" for number, wnid in wnids.items()]
        (root / "val_classes.txt").write_text("\n".join(lines))
    elif how == "kaggle":
        rows = [f"ILSVRC2012_val_{n:08d},{wnid} 1 2 3 4 " for n, wnid in wnids.items()]
        (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    else:
        write_devkit(root / "ILSVRC2012_devkit_t12" / "data")


def write_devkit(folder: Path) -> None:
    """Write a devkit whose own numbers run against the order of the wnids, as the real one's."""
    folder.mkdir(parents=True)
    numbers = {wnid: number for number, wnid in enumerate(sorted(WNIDS, reverse=True), 1)}
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "words", 0) for wnid, number in numbers.items()]
    rows.append((1001, "n00001740", "entity", 2))
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=fields)})
    lines = [str(numbers[WNIDS[c]]) for c in FLAT.values()]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("how", ["list", "kaggle", "devkit"])
def test_flat_images_get_their_class_from_any_list(flat: Path, how: str) -> None:
    write_list(flat, how)
    dataset = opened(flat)
    assert dataset.labels("val").tolist() == list(FLAT.values())
    assert (dataset.mean, dataset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    paths = [flat / "val" / file_name(number) for number in FLAT]
    assert torch.equal(dataset.images("val", range(5)), read_images(paths, 16))


def test_a_subset_leaves_other_flat_images_out(flat: Path) -> None:
    write_list(flat, "list")
    dataset = opened(flat, "n03393912", "n01443537")
    assert [info.name for info in dataset.classes][1].startswith("goldfish")
    assert dataset.labels("val").tolist() == [0, 1, 1, 0]


def test_a_changed_list_is_noticed(flat: Path) -> None:
    write_list(flat, "list")
    age(flat)
    before = opened(flat)
    text = (flat / "val_classes.txt").read_text()
    (flat / "val_classes.txt").write_text(
        text.replace(f"{file_name(2)} {WNIDS[0]}", f"{file_name(2)} {WNIDS[1]}")
    )
    after = opened(flat)
    assert after.labels("val").tolist() == [2, 1, 1, 0, 2]
    assert after.content_hash != before.content_hash


def test_flat_images_without_a_list_are_refused(flat: Path) -> None:
    message = refusal(flat)
    assert "val_classes.txt" in message
    assert "ILSVRC2012_devkit_t12" in message


def test_an_image_that_the_list_lacks_is_named(flat: Path) -> None:
    write_list(flat, "list")
    picture(9, 9, 9).save(flat / "val" / file_name(9))
    assert file_name(9) in refusal(flat)


def test_a_listed_image_that_is_not_there_is_named(flat: Path) -> None:
    write_list(flat, "list")
    (flat / "val" / file_name(3)).unlink()
    assert f"1 images in the list of classes are not in {flat / 'val'}" in refusal(flat)
    assert opened(flat, WNIDS[0], WNIDS[2]).labels("val").tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("line", ["ILSVRC2012_val_00000001.JPEG 17", "a.jpg n01440764", "x"])
def test_a_line_that_says_no_class_is_named(flat: Path, line: str) -> None:
    (flat / "val_classes.txt").write_text(line)
    assert f"entry 1: {line!r}" in refusal(flat)


def test_a_devkit_that_is_no_devkit_is_refused(flat: Path) -> None:
    folder = flat / "ILSVRC2012_devkit_t12" / "data"
    write_devkit(folder)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n7\n")
    assert "not a readable devkit" in refusal(flat)
    (folder / "meta.mat").write_bytes(b"x" * 200)
    assert "not a readable devkit" in refusal(flat)


def thousand(root: Path) -> Path:
    wnids = ImageNetInfo("imagenet-1k").label_names()
    return make_tree(root, wnids, train=1, val=1, side=3)


def test_the_whole_has_the_published_order_and_lacks_no_class(tmp_path: Path) -> None:
    root, info = thousand(tmp_path / "t"), ImageNetInfo("imagenet-1k")
    dataset = imagenet1k(DatasetConfig("imagenet1k", 8, root))
    assert [c.folder for c in dataset.classes] == info.label_names()
    assert dataset.classes[0].name == info.index_to_description(0)
    assert dataset.labels("train").tolist() == list(range(1000))
    (root / "train" / "n99999999").mkdir()
    with pytest.raises(UsageError, match="n99999999"):
        imagenet1k(DatasetConfig("imagenet1k", 8, root))
    shutil.rmtree(root / "train" / "n99999999")
    shutil.rmtree(root / "train" / "n01443537")
    with pytest.raises(UsageError, match="has 999 of .*'n01443537'"):
        imagenet1k(DatasetConfig("imagenet1k", 8, root))


# -- Tiny-ImageNet ---------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    root, lines = tmp_path / "tiny-imagenet-200", []
    (root / "val" / "images").mkdir(parents=True)
    for c, wnid in enumerate(WNIDS):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
        for i in range(2):
            picture(10 * c + i, 64, 64).save(root / "train" / wnid / "images" / f"{i}.JPEG")
    for i, c in enumerate((2, 0, 1, 1)):
        picture(100 + i, 64, 64).save(root / "val" / "images" / f"val_{i}.JPEG", quality=95)
        lines.append(f"val_{i}.JPEG\t{WNIDS[c]}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def open_tiny(root: Path, *class_list: str) -> ImageDataset:
    return tiny_imagenet(DatasetConfig("tiny_imagenet", 64, root, class_list=class_list))


def test_tiny_imagenets_own_layout_is_read_uncut(tiny: Path) -> None:
    dataset = open_tiny(tiny)
    assert [info.folder for info in dataset.classes] == sorted(WNIDS)
    by_name = {wnid: place for place, wnid in enumerate(sorted(WNIDS))}
    assert dataset.labels("val").tolist() == [by_name[WNIDS[c]] for c in (2, 0, 1, 1)]
    path = tiny / "val" / "images" / "val_2.JPEG"
    assert torch.equal(dataset.images("val", [2]), read_images([path], 64, 1.0))
    stored = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    assert torch.equal(dataset.images("val", [2])[0], stored)


def test_a_class_list_of_tiny_imagenet_leaves_the_rest_out(tiny: Path) -> None:
    dataset = open_tiny(tiny, WNIDS[1], WNIDS[2])
    assert dataset.labels("val").tolist() == [1, 0, 0]
    assert dataset.labels("train").tolist() == [0, 0, 1, 1]


def test_tiny_imagenet_sorted_by_someone_is_refused_with_a_way_out(tiny: Path) -> None:
    (tiny / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UsageError, match=r"val_annotations\.txt.*dataset folder"):
        open_tiny(tiny)


def test_a_wnid_that_tiny_imagenet_lacks_is_named(tiny: Path) -> None:
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn00000001\t0\n")
    with pytest.raises(UsageError, match="line 1: 'n00000001'"):
        open_tiny(tiny)
