"""Distilled sets read back from a run, and random real images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.data.dataset import Split
from prism_nb.data.distilled import (
    DeviceImages,
    StreamedImages,
    load_images,
    load_subset,
    open_train_images,
    prefetch,
    random_real,
)
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Digits
from tests.helpers.image_sets import begin_run, hash_of, picture

CPU = torch.device("cpu")

# -- random real images ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(32)


def test_a_random_subset_repeats_no_image_and_no_other_tag(digits: Digits) -> None:
    keys = [(c, k) for c in (3, 7) for k in range(20)]
    subset = random_real(digits, keys, seed=0, tag="a")
    assert len(np.unique(subset.flatten(1).numpy(), axis=0)) == 40
    assert not torch.equal(subset, random_real(digits, keys, seed=0, tag="b"))
    assert not torch.equal(subset, random_real(digits, keys, seed=1, tag="a"))


def test_a_random_subset_does_not_depend_on_the_batch(digits: Digits) -> None:
    whole = random_real(digits, [(c, k) for c in range(10) for k in range(4)], seed=0, tag="a")
    part = random_real(digits, [(5, 3), (2, 0)], seed=0, tag="a")
    assert torch.equal(part, whole[[5 * 4 + 3, 2 * 4]])


# -- distilled sets --------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin_run(tmp_path)


def test_images_are_ordered_by_class_and_index(run: Run) -> None:
    dataset = open_dataset(run.settings)
    images, classes = load_images(run, "random_real", dataset)
    assert classes.tolist() == [c for c in range(10) for _ in range(2)]
    assert torch.equal(
        load_subset(run, "random_real", dataset, [(4, 1), (0, 0)]), images[[2 * 4 + 1, 0]]
    )
    stored = run.file(image_path("random_real", 4, 1)).read_bytes()
    pixels = images[2 * 4 + 1].permute(1, 2, 0).contiguous().numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == hash_of(stored)


@pytest.mark.parametrize(
    ("content", "message"),
    [(picture(1, size=24), "cannot be read: .*24 x 24"), (b"x", "cannot be read")],
)
def test_a_damaged_or_wrong_image_is_named(run: Run, content: bytes, message: str) -> None:
    path = run.file(image_path("random_real", 3, 1))
    path.write_bytes(content)
    with pytest.raises(PrismError, match=f"{path.name}.* {message}.*run synthesis again"):
        load_images(run, "random_real", open_dataset(run.settings))


# -- training images -------------------------------------------------------------------------


class Recording(Digits):
    """Digits that record the size of each request."""

    def __init__(self) -> None:
        super().__init__(16)
        self.requests: list[int] = []

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        self.requests.append(len(indices))
        return super().images(split, indices)


def test_few_training_images_stay_on_the_device_as_bytes() -> None:
    images, rows = open_train_images(Digits(16), CPU), torch.tensor([7, 0, 99])
    assert isinstance(images, DeviceImages)
    expected = Digits(16).normalize(Digits(16).images("train", rows.tolist()))
    assert torch.equal(images[rows], expected)
    assert (len(images), images.size, images.device) == (1257, 16, CPU)


def test_one_batch_is_read_ahead_and_all_come_in_order() -> None:
    recording = Recording()
    images, batches = StreamedImages(recording, CPU), list(torch.randperm(100).split(10))
    for number, (rows, found) in enumerate(zip(batches, prefetch(images, batches), strict=True)):
        assert len(recording.requests) <= number + 2
        assert torch.equal(found, images[rows])
        recording.requests.pop()  # of the line above
