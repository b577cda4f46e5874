"""Datasets, crops and random real subsets."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from scipy.stats import ks_2samp
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.data.augment import sample_crop
from prism_nb.data.dataset import Split
from prism_nb.data.distilled import random_real
from prism_nb.data.registry import ValidationHoldout, open_dataset
from prism_nb.data.small import Digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(32)


def test_digits_hold_every_scan_once(digits: Digits) -> None:
    labels = np.concatenate([digits.labels("train"), digits.labels("val")])
    assert len(labels) == 1797
    assert (np.bincount(labels) == np.bincount(load_digits().target)).all()


def test_the_split_is_stratified_and_pinned(digits: Digits) -> None:
    share = np.bincount(digits.labels("val")) / np.bincount(load_digits().target)
    assert np.abs(share - 0.3).max() < 0.01
    assert len(digits.labels("val")) == 540
    scans = Digits(8).images("val", range(540)).numpy().tobytes()
    assert hashlib.sha256(scans).hexdigest()[:16] == "f96322f39ace3ddd"


def test_enlarging_keeps_the_scan(digits: Digits) -> None:
    small = Digits(8)
    scan = small.images("val", [0])[0, 0].double() / 255 * 16
    originals = torch.from_numpy(load_digits().images)
    distance = (originals - scan.round()).abs().amax(dim=(1, 2)).min()
    assert distance == 0
    assert digits.images("val", [0]).shape == (1, 3, 32, 32)


def test_canonical_training_pixels_are_standardised(digits: Digits) -> None:
    pixels = digits.images("train", range(len(digits.labels("train"))))
    canonical = digits.normalize(pixels)
    assert canonical.mean().abs() < 1e-3
    assert (canonical.std() - 1).abs() < 1e-3


def test_bytes_survive_the_way_to_canonical_and_back(digits: Digits) -> None:
    every_level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(digits.to_uint8(digits.normalize(every_level)), every_level)


def test_bytes_are_rounded_and_clamped(digits: Digits) -> None:
    mean, std = digits.mean[0], digits.std[0]
    values = torch.tensor([-9.0, (100.6 / 255 - mean) / std, 9.0]).view(1, 1, 1, 3)
    assert digits.to_uint8(values.expand(1, 3, 1, 3))[0, 0, 0].tolist() == [0, 101, 255]


def test_bounds_are_black_and_white(digits: Digits) -> None:
    low, high = digits.pixel_bounds(torch.device("cpu"))
    both = torch.stack([low, high]).expand(2, 3, 2, 2)
    assert digits.to_uint8(both).flatten(1).unique(dim=1).flatten().tolist() == [0, 255]


def test_too_few_images_name_the_class(digits: Digits) -> None:
    fewest = int(np.bincount(digits.labels("train")).min())
    digits.check_per_class(fewest, purpose="x")
    with pytest.raises(UsageError, match=r"class '\d'.*lower ipc to"):
        digits.check_per_class(fewest + 1, purpose="x")


def test_a_random_subset_repeats_no_image_and_no_other_tag(digits: Digits) -> None:
    members = [(c, image_index) for c in (3, 7) for image_index in range(20)]
    subset = random_real(digits, members, seed=0, tag="a")
    assert len(np.unique(subset.flatten(1).numpy(), axis=0)) == 40
    assert not torch.equal(subset, random_real(digits, members, seed=0, tag="b"))
    assert not torch.equal(subset, random_real(digits, members, seed=1, tag="a"))


def test_a_random_subset_does_not_depend_on_the_batch(digits: Digits) -> None:
    whole = random_real(digits, [(c, s) for c in range(10) for s in range(4)], seed=0, tag="a")
    part = random_real(digits, [(5, 3), (2, 0)], seed=0, tag="a")
    assert torch.equal(part, whole[[5 * 4 + 3, 2 * 4]])


def test_a_random_subset_is_of_the_right_class(digits: Digits) -> None:
    subset = random_real(digits, [(4, 0), (4, 1)], seed=0, tag="a")
    of_class = digits.images("train", digits.class_indices("train", 4).tolist())
    for image in subset:
        assert (of_class == image).flatten(1).all(1).any()


@given(
    size=strategies.integers(8, 300),
    crop_min=strategies.floats(0.01, 1),
    seed=strategies.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_crops_lie_inside_the_image(size: int, crop_min: float, seed: int) -> None:
    top, left, height, width = sample_crop(size, crop_min, torch.Generator().manual_seed(seed))
    assert height > 0
    assert width > 0
    assert 0 <= top <= size - height
    assert 0 <= left <= size - width


def test_crops_are_distributed_like_those_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    mine = np.array([sample_crop(224, 0.08, generator) for _ in range(5000)], dtype=float)
    torch.manual_seed(0)
    image = torch.empty(3, 224, 224)
    draws = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)]
    theirs = np.array(draws, dtype=float)
    for side in range(4):
        # The 1-in-a-million bound of the two-sample Kolmogorov-Smirnov statistic at this size.
        assert ks_2samp(mine[:, side], theirs[:, side]).pvalue > 1e-6
    assert ks_2samp(mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-6


class SealedDigits(Digits):
    """Digits whose held-out images must not be looked at."""

    def labels(self, split: Split) -> np.ndarray:
        assert split == "train", "the test labels were read"
        return super().labels(split)

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        assert split == "train", "the test images were read"
        return super().images(split, indices)


def places_of(tuning: ValidationHoldout, sealed: Digits, split: Split) -> list[int]:
    """Find where the images of a split stand in the training images: by pixels and label."""
    train = {}
    for place, image in enumerate(sealed.images("train", range(len(sealed.labels("train"))))):
        train.setdefault(image.numpy().tobytes(), []).append(place)
    pixels = tuning.images(split, range(len(tuning.labels(split))))
    return [train[image.numpy().tobytes()].pop(0) for image in pixels]


def test_a_tuning_split_cuts_the_training_images_in_two_and_opens_no_others() -> None:
    sealed = SealedDigits(16)
    tuning = ValidationHoldout(sealed)
    train, val = (places_of(tuning, sealed, split) for split in ("train", "val"))
    assert not set(train) & set(val)
    assert sorted([*train, *val]) == list(range(len(sealed.labels("train"))))
    assert (tuning.labels("train") == sealed.labels("train")[train]).all()
    assert (tuning.labels("val") == sealed.labels("train")[val]).all()
    assert train == sorted(train)
    assert val == sorted(val)
    tuning.class_indices("val", 3)
    tuning.check_per_class(1, purpose="x")


def test_a_tuning_split_holds_out_a_quarter_of_each_class_and_is_pinned() -> None:
    whole = Digits(16)
    tuning = ValidationHoldout(whole)
    held = np.bincount(tuning.labels("val")) / np.bincount(whole.labels("train"))
    assert np.abs(held - 0.25).max() < 0.01
    assert (tuning.labels("val") == ValidationHoldout(whole).labels("val")).all()
    assert torch.equal(tuning.images("val", [0, 7]), ValidationHoldout(whole).images("val", [0, 7]))


def test_pixels_mean_the_same_in_a_search_and_after_it() -> None:
    whole = Digits(16)
    tuning = ValidationHoldout(whole)
    assert (tuning.mean, tuning.std) == (whole.mean, whole.std)
    assert (tuning.classes, tuning.image_size) == (whole.classes, 16)
    assert tuning.name != whole.name


def test_a_run_scores_on_test_images_unless_it_is_a_search() -> None:
    plain = open_dataset(load_settings("digits_quick"))
    search = open_dataset(load_settings("digits_quick", {"eval_split": "tuning"}))
    assert len(plain.labels("val")) == 540
    assert len(search.labels("val")) == 315
    assert len(search.labels("train")) == 1257 - 315
    assert open_dataset(load_settings("digits_quick", {"eval_split": "tuning"})) is search
