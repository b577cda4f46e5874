"""ImageNet-1K and Tiny-ImageNet: class order, held-out images that lie flat, what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo

from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import SPLITS, DatasetConfig, ImageDataset
from prism_nb.data.image_folder import folder_layout
from prism_nb.data.image_io import read_images
from prism_nb.data.imagenet import imagenet1k, tiny_imagenet, tiny_layout
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
    return root


def opened(root: Path, *class_list: str) -> ImageDataset:
    return imagenet1k(DatasetConfig("imagenet1k", 16, root, class_list=class_list or WNIDS))


def write_list(root: Path, *, kaggle: bool = False) -> None:
    lines = [f"{file_name(number)} {WNIDS[c]}" for number, c in FLAT.items()]
    if kaggle:
        rows = [f"ILSVRC2012_val_{n:08d},{WNIDS[c]} 1 2 3 4 " for n, c in FLAT.items()]
        lines = ["ImageId,PredictionString", *rows]
    name = "LOC_val_solution.csv" if kaggle else "val_classes.txt"
    (root / name).write_text("\n".join(lines))


@pytest.mark.parametrize("kaggle", [False, True])
def test_flat_images_get_their_class_from_either_list(flat: Path, kaggle: bool) -> None:
    write_list(flat, kaggle=kaggle)
    dataset = opened(flat)
    assert dataset.labels("val").tolist() == list(FLAT.values())
    assert (dataset.mean, dataset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    paths = [flat / "val" / file_name(number) for number in FLAT]
    assert torch.equal(dataset.images("val", range(5)), read_images(paths, 16))


def test_kaggles_list_is_found_where_its_archive_has_it(flat: Path) -> None:
    write_list(flat, kaggle=True)
    root = flat.parent / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    root.parent.mkdir(parents=True)
    flat.rename(root)
    (root / "LOC_val_solution.csv").rename(flat.parent / "kaggle" / "LOC_val_solution.csv")
    assert opened(root).labels("val").tolist() == list(FLAT.values())


def test_a_subset_leaves_other_flat_images_out(flat: Path) -> None:
    write_list(flat)
    dataset = opened(flat, "n03393912", "n01443537")
    assert [info.name for info in dataset.classes][1].startswith("goldfish")
    assert dataset.labels("val").tolist() == [0, 1, 1, 0]
    (flat / "val" / file_name(3)).unlink()  # of another class
    assert opened(flat, WNIDS[0], WNIDS[2]).labels("val").tolist() == [1, 0, 0, 1]


def test_a_changed_list_is_noticed(flat: Path) -> None:
    write_list(flat)
    age(flat)
    before = opened(flat)
    path = flat / "val_classes.txt"
    changed = f"{file_name(2)} {WNIDS[1]}"
    path.write_text(path.read_text().replace(f"{file_name(2)} {WNIDS[0]}", changed))
    after = opened(flat)
    assert after.labels("val").tolist() == [2, 1, 1, 0, 2]
    assert after.content_hash != before.content_hash


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "val_classes.txt").unlink(), "val_classes.txt .*LOC_val_solution"),
        (lambda root: picture(9, 9, 9).save(root / "val" / file_name(9)), file_name(9)),
        (lambda root: (root / "val" / file_name(3)).unlink(), f"1 images .*{file_name(3)}"),
        (lambda root: (root / "val_classes.txt").write_text("a.jpg n01440764"), "'a.jpg n01440"),
        (lambda root: (root / "val_classes.txt").write_text("a.JPEG 17"), "'a.JPEG 17'"),
    ],
)
def test_flat_images_that_differ_from_the_list_are_refused(
    flat: Path, spoil: Callable[[Path], object], message: str
) -> None:
    write_list(flat)
    spoil(flat)
    with pytest.raises(UsageError, match=message):
        opened(flat)


def test_the_whole_has_the_published_order_and_lacks_no_class(tmp_path: Path) -> None:
    info = ImageNetInfo("imagenet-1k")
    root = make_tree(tmp_path / "t", info.label_names(), train=1, val=1, side=3)
    config = DatasetConfig("imagenet1k", 8, root)
    dataset = imagenet1k(config)
    assert [c.folder for c in dataset.classes] == info.label_names()
    assert dataset.classes[0].name == info.index_to_description(0)
    assert dataset.labels("train").tolist() == list(range(1000))
    (root / "train" / "n99999999").mkdir()
    with pytest.raises(UsageError, match="'n99999999'"):
        imagenet1k(config)
    (root / "train" / "n99999999").rmdir()
    shutil.rmtree(root / "train" / "n01443537")
    with pytest.raises(UsageError, match="has 999 .*'n01443537'"):
        imagenet1k(config)


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


def pixels_by_class(dataset: ImageDataset) -> torch.Tensor:
    return torch.cat(
        [
            dataset.images(split, dataset.class_indices(split, info.index).tolist())
            for split in SPLITS
            for info in dataset.classes
        ]
    )


@pytest.mark.parametrize("inner", ["", "images"])
@pytest.mark.parametrize("left", ["nothing", "list", "list and folder", "all"])
def test_tiny_imagenet_may_be_sorted_by_class(tiny: Path, inner: str, left: str) -> None:
    before, images = pixels_by_class(open_tiny(tiny)), tiny / "val" / "images"
    for line in (tiny / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split()[:2]
        folder = tiny / "val" / wnid / inner
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / name, folder / name)
        if left != "all":
            (images / name).unlink()
    if left in {"nothing", "list"}:
        images.rmdir()
    if left == "nothing":
        (tiny / "val" / "val_annotations.txt").unlink()
    if not inner:
        for folder in (tiny / "train").glob("*/images"):
            for path in folder.iterdir():
                path.rename(folder.parent / path.name)
            if left == "nothing":
                folder.rmdir()
    assert torch.equal(pixels_by_class(open_tiny(tiny)), before)


@pytest.mark.parametrize("dataset", ["tiny_imagenet", "folder"])
def test_held_out_images_may_be_sorted_within_their_folder(tiny: Path, dataset: str) -> None:
    before, images = pixels_by_class(open_tiny(tiny)), tiny / "val" / "images"
    for line in (tiny / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split()[:2]
        (images / wnid).mkdir(exist_ok=True)
        (images / name).rename(images / wnid / name)
    layout = tiny_layout if dataset == "tiny_imagenet" else folder_layout
    found = layout(tiny, ())
    assert found.classes == tuple(sorted(WNIDS))
    assert [place.folder for place in found.val] == [f"val/images/{w}" for w in sorted(WNIDS)]
    assert torch.equal(pixels_by_class(open_tiny(tiny)), before)


def test_a_sort_that_was_interrupted_is_refused(tiny: Path) -> None:
    (tiny / "val" / WNIDS[2]).mkdir()
    (tiny / "val/images/val_0.JPEG").rename(tiny / "val" / WNIDS[2] / "val_0.JPEG")
    with pytest.raises(UsageError, match=r"1 images are either in .*val_0\.JPEG"):
        open_tiny(tiny)
