"""The pixel space of a dataset, and its counts of images per class."""

import numpy as np
import pytest
import torch

from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.small import Digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(32)


def test_normalized_training_pixels_are_standardised(digits: Digits) -> None:
    images = digits.normalize(digits.images("train", range(len(digits.labels("train")))))
    assert images.mean().abs() < 1e-3
    assert (images.std() - 1).abs() < 1e-3


def test_every_level_survives_normalizing_and_back(digits: Digits) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(digits.to_uint8(digits.normalize(levels)), levels)


def test_pixels_are_clamped_and_rounded_or_truncated(digits: Digits) -> None:
    mean, std = digits.mean[0], digits.std[0]
    values = torch.tensor([-9.0, (100.6 / 255 - mean) / std, 9.0]).expand(1, 3, 1, 3)
    assert digits.to_uint8(values)[0, 0, 0].tolist() == [0, 101, 255]
    assert digits.to_uint8(values, rounded=False)[0, 0, 0].tolist() == [0, 100, 255]


def test_a_class_with_too_few_images_is_named(digits: Digits) -> None:
    fewest = int(np.bincount(digits.labels("train")).min())
    digits.check_per_class(fewest, purpose="x")
    with pytest.raises(UsageError, match=r"class '\d'.*lower ipc to"):
        digits.check_per_class(fewest // 2 + 1, purpose="x", each=2)


def test_the_progress_bar_is_not_part_of_a_datasets_identity() -> None:
    quiet, loud = (DatasetConfig("folder", 16, progress=progress) for progress in (False, True))
    assert quiet == loud
    assert hash(quiet) == hash(loud)
