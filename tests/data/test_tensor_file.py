"""Files of tensors: what their values mean is found out, or they are refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.imported import find_images, open_archive
from prism_nb.data.registry import open_dataset
from prism_nb.data.tensor_file import to_levels
from tests.helpers.dangerous import Dangerous
from tests.helpers.image_sets import SIZE, pixels_of

LABELS = torch.arange(10).repeat(2)


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    return open_dataset(load_settings("digits_quick", {"image_size": SIZE}))


@pytest.fixture(scope="module")
def levels() -> Tensor:
    pixels = torch.randint(0, 256, (20, 3, SIZE, SIZE), generator=torch.manual_seed(0))
    pixels[0, :, 0, :2] = torch.tensor([0, 255])
    return pixels.to(torch.uint8)


def read(path: Path, dataset: ImageDataset) -> tuple[Tensor, str]:
    """Return the pixels of a set in the order of the file, and the layout."""
    archive = open_archive(path, dataset)
    layout, files = find_images(archive, dataset.classes)
    names = [files[c][k] for k in range(2) for c in range(10)]
    return torch.stack([*map(pixels_of, archive.contents(names))]), archive.note + layout


@pytest.mark.parametrize("kind", ["levels", "[0, 1]", "[0, 255]", "normalised by"])
def test_the_range_of_values_is_found_out(
    tmp_path: Path, dataset: ImageDataset, levels: Tensor, kind: str
) -> None:
    values = {
        "levels": levels,
        "[0, 1]": levels.double() / 255,
        "[0, 255]": levels.float(),
        "normalised by": dataset.normalize(levels),
    }
    torch.save({"images": values[kind], "labels": LABELS}, tmp_path / "set.pt")
    pixels, layout = read(tmp_path / "set.pt", dataset)
    assert torch.equal(pixels, levels)
    assert f"tensors of set.pt, values taken as {kind}" in layout


def save_dc(folder: Path, images: Tensor) -> Path:
    """Write what DC and DSA write: experiments, the last one complete, and NumPy's accuracies."""
    data = [[torch.zeros(1), torch.zeros(1)], [images, LABELS]]
    torch.save({"data": data, "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}, folder / "r.pt")
    return folder / "r.pt"


def save_mtt(folder: Path, images: Tensor) -> Path:
    torch.save(images, folder / "images_best.pt")
    torch.save(LABELS, folder / "labels_best.pt")
    return folder / "images_best.pt"


def save_pair(folder: Path, images: Tensor) -> Path:
    torch.save((images, LABELS), folder / "pair.pth")
    return folder / "pair.pth"


@pytest.mark.parametrize("save", [save_dc, save_mtt, save_pair])
def test_files_of_other_programs_are_read(
    tmp_path: Path, dataset: ImageDataset, levels: Tensor, save: Any
) -> None:
    path = save(tmp_path, dataset.normalize(levels))
    assert torch.equal(read(path, dataset)[0], levels)
    assert torch.equal(read(tmp_path, dataset)[0], levels)


def test_grey_images_have_three_equal_channels(tmp_path: Path, dataset: ImageDataset) -> None:
    grey = torch.rand(20, 1, SIZE, SIZE)
    torch.save((grey, LABELS), tmp_path / "grey.pt")
    pixels, _ = read(tmp_path / "grey.pt", dataset)
    assert torch.equal(pixels, (grey * 255).round().to(torch.uint8).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("kind", ["[0, 1]", "normalised by mean"])
def test_a_little_beyond_black_and_white_is_clamped(
    dataset: ImageDataset, levels: Tensor, kind: str
) -> None:
    images = 1.1 * (levels / 255 - 0.5) + 0.5
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (dataset.mean, dataset.std))
    values = images if kind == "[0, 1]" else (images - mean) / std
    found, text = to_levels(values, dataset, Path("x.pt"))
    assert text.startswith(kind)
    expected = (255 * images.double()).clamp(0, 255)
    assert (found - expected).abs().max() <= 0.501


def test_cifar10_is_normalised_as_its_programs_do(levels: Tensor) -> None:
    measured = SimpleNamespace(name="cifar10", mean=(0.4914,) * 3, std=(0.247, 0.2435, 0.2616))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    images = (levels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    found, _ = to_levels(images, cast(ImageDataset, measured), Path("x.pt"))
    assert torch.equal(found, levels)


@pytest.mark.parametrize(
    "bounds",
    [
        (-1, 1),
        (0, 0),
        (-0.3, 1.3),
        (0, 5),
        (-9, 9),
        (0, 300),
        (0, math.nan),
        (-1, math.inf),
    ],
)
def test_values_that_may_mean_several_things_are_refused(
    dataset: ImageDataset, bounds: tuple[float, float]
) -> None:
    images = torch.linspace(0, 1, 20 * 3 * SIZE**2).view(20, 3, SIZE, SIZE)
    images = bounds[0] + (bounds[1] - bounds[0]) * images
    with pytest.raises(UsageError, match=r"x.pt has values from .* cannot be told"):
        to_levels(images, dataset, Path("x.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((torch.rand(2, 3, 8), torch.arange(2)), r"images \[2, 3, 8\] and labels \[2\]"),
        ((torch.rand(2, 8, 8, 3), torch.arange(2)), "3 or 1, H, W"),
        ((torch.rand(2, 3, 8, 8), torch.rand(2, 10)), r"labels \[2, 10\] of torch.float32"),
        ((torch.rand(2, 3, 8, 8), torch.tensor([0, -1])), "numbers .N., from 0"),
        ((torch.rand(0, 3, 8, 8), torch.arange(0)), r"images \[0, 3, 8, 8\]"),
        ({"pictures": torch.rand(2, 3, 8, 8)}, "does not hold a tensor"),
        ((torch.eye(8).expand(2, 3, 8, 8).to_sparse(), torch.arange(2)), "sparse tensors; save"),
        (torch.rand(2, 3, 8, 8), "does not hold a tensor of images and one of labels"),
    ],
)
def test_other_contents_are_refused(
    tmp_path: Path, dataset: ImageDataset, content: Any, message: str
) -> None:
    torch.save(content, tmp_path / "set.pt")
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "set.pt", dataset)


def test_objects_and_damage_are_refused(tmp_path: Path, dataset: ImageDataset) -> None:
    path = tmp_path / "set.pt"
    torch.save({"images": Dangerous(tmp_path / "ran")}, path)
    with pytest.raises(UsageError, match="set.pt cannot .* it holds more than tensors"):
        read(path, dataset)
    assert not (tmp_path / "ran").exists()
    for content in (b"", b"words", b"PK\x03\x04" + b"x" * 99):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"set.pt cannot be read as a file of torch.save"):
            read(path, dataset)
    torch.save(torch.rand(2), tmp_path / "other.pt")
    with pytest.raises(UsageError, match="holds other.pt, set.pt; name the file of the images"):
        read(tmp_path, dataset)
