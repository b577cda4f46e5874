"""Reading a method's synthetic images back from a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prism_nb.artifacts.sizes import set_bytes
from prism_nb.config import default_cache_dir, digest
from prism_nb.data import ImageDataset
from prism_nb.data.decode import DAMAGE
from prism_nb.data.decoded import decoded_once, mapped
from prism_nb.data.subset import random_real
from prism_nb.errors import PrismError
from prism_nb.plans.diversity import REFERENCE
from prism_nb.plans.synthesis import image_path, method_units
from prism_nb.run import Run

Members = Sequence[tuple[int, int]]  # (class, slot) of images
Load = Callable[[Run, str, ImageDataset, Members], Tensor]
REFERENCE_TAG = "reference"  # of `data.subset.random_real`


class Resident:
    """Images that stay on a device as bytes, and are canonical where one looks at them.

    Bytes take a quarter of the memory: IPC 50 of ImageNet-1K is 7.5 GB, once per process.

    Args:
        pixels: uint8 [N, 3, S, S].
        dataset: Whose pixel space is meant.
    """

    def __init__(self, pixels: Tensor, dataset: ImageDataset) -> None:
        self._pixels, self._dataset = pixels, dataset

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, canonical float32 [n, 3, S, S]."""
        return self._dataset.canonical(self._pixels[rows])

    def __len__(self) -> int:
        """Return their number, N."""
        return len(self._pixels)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._pixels.device

    @property
    def size(self) -> int:
        """Their side, in pixels."""
        return self._pixels.shape[-1]


def load_images(run: Run, method: str, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Read all images of a method, class by class and slot by slot.

    Image i belongs to class i // ipc and slot i % ipc. A large set is decoded once into the cache
    and read from there, so that a process holds no more of it than it looks at.

    Returns:
        Pixels, uint8 [classes * ipc, 3, S, S], which are not to be written to, and class indices,
        int64 [classes * ipc].

    Raises:
        PrismError: An image is missing, damaged or of another size.
    """
    return _whole(run, method, dataset, load_members)


def _whole(run: Run, name: str, dataset: ImageDataset, load: Load) -> tuple[Tensor, Tensor]:
    """Return a whole set and its classes, from a file in the cache where it is large.

    Args:
        run: The run.
        name: What the images are called.
        dataset: Whose classes and size they have.
        load: Reads some of them.
    """
    classes, ipc = len(dataset.classes), run.settings.ipc
    members = [(c, slot) for c in range(classes) for slot in range(ipc)]
    labels = torch.arange(classes).repeat_interleave(ipc)
    if not set_bytes(run.settings, classes):
        return load(run, name, dataset, members), labels
    kept = decoded_once(
        _file(run, name, dataset),
        lambda places: load(run, name, dataset, [members[place] for place in places]),
        count=len(members),
        size=dataset.image_size,
        what=f"images of {name}",
        progress=run.settings.progress,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the file cannot be written to
        return torch.from_numpy(kept), labels


def is_decoded(run: Run, name: str, dataset: ImageDataset) -> bool:
    """Return whether the cache holds a large set as it is now."""
    count = len(dataset.classes) * run.settings.ipc
    return mapped(_file(run, name, dataset), count=count, size=dataset.image_size) is not None


def _file(run: Run, name: str, dataset: ImageDataset) -> Path:
    """Return where the cache holds a set; its name says all that decides the images."""
    classes = len(dataset.classes)
    made_from: object = [dataset.name, dataset.content, run.settings.seed, REFERENCE_TAG]
    if name != REFERENCE:
        made_from = run.content(tuple(u.marker for u in method_units(run, name, classes)))
    key = digest([name, made_from, classes * run.settings.ipc, dataset.image_size])
    return default_cache_dir() / "sets" / f"{key}.npy"


def load_members(run: Run, method: str, dataset: ImageDataset, members: Members) -> Tensor:
    """Read some images of a method, each a (class, slot), as uint8 [n, 3, S, S].

    They lie in memory channels last, as networks want them.
    """
    size = dataset.image_size
    pixels = torch.empty(len(members), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for place, (c, slot) in enumerate(members):
        pixels[place] = _read(run, image_path(method, c, slot), size)
    return pixels


def load_set(run: Run, name: str, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Return a method's images, or the real reference under `plans.diversity.REFERENCE`."""
    if name == REFERENCE:
        return load_reference(run, dataset)
    return load_images(run, name, dataset)


def load_some(run: Run, name: str, dataset: ImageDataset, members: Members) -> Tensor:
    """Return those of `load_set` that are named, each a (class, slot), uint8 [n, 3, S, S]."""
    if name == REFERENCE:
        return _reference(run, name, dataset, members)
    return load_members(run, name, dataset, members)


def load_reference(run: Run, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Return a random real subset of equal size, in the order of `load_images`.

    It is the yardstick of the diversity measures, drawn apart from the `random_real` method.
    """
    return _whole(run, REFERENCE, dataset, _reference)


def _reference(run: Run, _: str, dataset: ImageDataset, members: Members) -> Tensor:
    return random_real(dataset, members, seed=run.settings.seed, tag=REFERENCE_TAG)


def _read(run: Run, path: str, size: int) -> Tensor:
    """Return an image as uint8 [3, S, S]; one of another size is refused before it is decoded."""
    try:
        with Image.open(run.file(path)) as image:
            if image.size != (size, size):
                raise PrismError(
                    f"image {run.file(path)} is {image.width} x {image.height}, not {size} pixels "
                    "square; run synthesis again"
                )
            pixels = np.array(image.convert("RGB"))
    except DAMAGE as error:
        raise PrismError(
            f"image {run.file(path)} cannot be read: {error}; run synthesis again"
        ) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
