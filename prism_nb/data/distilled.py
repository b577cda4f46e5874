"""Images of distilled sets and training images, in memory, on a device, or read when needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import image_path
from prism_nb.core.units import unit_seed
from prism_nb.data.augment import ImageSet
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.image_io import DECODE_ERRORS, read_exact

ImageKeys = Sequence[tuple[int, int]]  # (class, index within the class) of images
REFERENCE_TAG = "reference"  # of `shuffled_indices`

MAX_RESIDENT_BYTES = 2**30  # of pixels on a device; CIFAR takes 154 MB, Tiny-ImageNet 1.2 GB


def load_images(run: Run, name: str, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Read all images of a method, ordered by class and index within the class.

    Under `REFERENCE` they are a random real subset of equal size, the reference of the diversity
    metrics, which is independent of the method `random_real`.

    Returns:
        Pixels, uint8 [classes * ipc, 3, S, S], and class indices, int64 [classes * ipc].

    Raises:
        PrismError: An image is missing, damaged or of another size.
    """
    classes, ipc = len(dataset.classes), run.settings.ipc
    keys = [(c, image_index) for c in range(classes) for image_index in range(ipc)]
    return load_subset(run, name, dataset, keys), torch.arange(classes).repeat_interleave(ipc)


def load_subset(run: Run, name: str, dataset: ImageDataset, keys: ImageKeys) -> Tensor:
    """Read some images of a method or of `REFERENCE`, uint8 [n, 3, S, S]."""
    if name == REFERENCE:
        return random_real(dataset, keys, seed=run.settings.seed, tag=REFERENCE_TAG)
    size = dataset.image_size

    def read(key: tuple[int, int]) -> Tensor:
        path = run.file(image_path(name, *key))
        try:
            return read_exact(path, size)
        except DECODE_ERRORS as error:
            raise PrismError(f"image {path} cannot be read: {error}; run synthesis again") from None

    # Channels last in memory, the layout that networks are fastest with.
    pixels = torch.empty(len(keys), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for row, image in enumerate(threads.map(read, keys)):
            pixels[row] = image
    return pixels


def random_real(dataset: ImageDataset, keys: ImageKeys, *, seed: int, tag: str) -> Tensor:
    """Return random training images without repetition within a class, uint8 [n, 3, S, S].

    Image k of a class depends only on the run's seed, the tag of the purpose, the class and k, and
    not on the other keys.
    """
    shuffled = {c: shuffled_indices(dataset, c, seed=seed, tag=tag) for c in {c for c, _ in keys}}
    return dataset.images("train", [int(shuffled[c][image_index]) for c, image_index in keys])


def shuffled_indices(dataset: ImageDataset, c: int, *, seed: int, tag: str) -> np.ndarray:
    """Return a class's training images, int64 [n], in the order of `random_real`."""
    indices = dataset.class_indices("train", c)
    return np.random.default_rng(unit_seed(seed, tag, c)).permutation(indices)


class DeviceImages:
    """Images [N, 3, S, S] stored on a device as uint8, a quarter of float32; normalised on access.

    IPC 50 of ImageNet-1K takes 7.5 GB.
    """

    def __init__(self, pixels: Tensor, dataset: ImageDataset) -> None:
        self._pixels, self._dataset = pixels, dataset
        self.device, self.size = pixels.device, pixels.shape[-1]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, canonical float32 [n, 3, S, S]."""
        return self._dataset.normalize(self._pixels[rows])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pixels)


class StreamedImages:
    """Training images that are read from the dataset on access, and brought to a device."""

    def __init__(self, dataset: ImageDataset, device: torch.device) -> None:
        self._dataset, self.device, self.size = dataset, device, dataset.image_size

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, canonical float32 [n, 3, S, S]."""
        pixels = self._dataset.images("train", rows.tolist())
        return self._dataset.normalize(pixels.to(self.device, memory_format=torch.channels_last))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._dataset.labels("train"))


def open_train_images(dataset: ImageDataset, device: torch.device) -> DeviceImages | StreamedImages:
    """Return a dataset's training images: on the device if they are small, else streamed.

    Images in files are first decoded into the cache, once for all runs.

    Raises:
        PrismError: An image is damaged, or the disk too small.
    """
    count = len(dataset.labels("train"))
    dataset.cache("train")
    if 3 * count * dataset.image_size**2 > MAX_RESIDENT_BYTES:
        return StreamedImages(dataset, device)
    pixels = dataset.images("train", range(count))
    return DeviceImages(pixels.to(device, memory_format=torch.channels_last), dataset)


def prefetch(images: ImageSet, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield batches of images by their indices, int64 [n]; streamed ones are read ahead."""
    if not isinstance(images, StreamedImages):
        yield from map(images.__getitem__, batches)
        return
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(images.__getitem__, batches[0])
        for batch in batches[1:]:
            ready, pending = pending.result(), reader.submit(images.__getitem__, batch)
            yield ready
        yield pending.result()
