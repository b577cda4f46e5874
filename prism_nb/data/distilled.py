"""Images of distilled sets and training images, in memory, on a device, or read when needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prism_nb.core.config import default_cache_dir, short_hash
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.unit_plan import image_path, method_units
from prism_nb.core.units import unit_seed
from prism_nb.data.augment import ImageSet
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.image_io import DECODE_ERRORS, cached_decode, open_memmap

ImageKeys = Sequence[tuple[int, int]]  # (class, index within the class) of images
REFERENCE_TAG = "reference"  # of `shuffled_indices`

MAX_DECODED_BYTES = 2**28  # larger sets are decoded into the cache
MAX_RESIDENT_BYTES = 2**30  # of pixels on a device; CIFAR takes 154 MB, Tiny-ImageNet 1.2 GB


def load_images(run: Run, name: str, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Read all images of a method, ordered by class and index within the class.

    A set that is large is decoded once into the cache and mapped into memory from there.

    Args:
        run: The run, of `dataset`.
        name: A method, or `REFERENCE`: a random real subset of equal size, the reference of the
            diversity metrics. It is independent of the `random_real` method.
        dataset: Its classes and image size are those of the images.

    Returns:
        Pixels, uint8 [classes * ipc, 3, S, S], which must not be written to, and class indices,
        int64 [classes * ipc].

    Raises:
        PrismError: An image is missing, damaged or of another size.
    """
    classes, ipc = len(dataset.classes), run.settings.ipc
    keys = [(c, image_index) for c in range(classes) for image_index in range(ipc)]
    labels = torch.arange(classes).repeat_interleave(ipc)
    if not set_bytes(run.settings, classes):
        return load_subset(run, name, dataset, keys), labels
    cached = cached_decode(
        _cache_path(run, name, dataset),
        lambda indices: load_subset(run, name, dataset, [keys[index] for index in indices]),
        count=len(keys),
        size=dataset.image_size,
        what=f"images of {name}",
        progress=run.settings.progress,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the array is read-only
        return torch.from_numpy(cached), labels


def load_subset(run: Run, name: str, dataset: ImageDataset, keys: ImageKeys) -> Tensor:
    """Read some images of a method or of `REFERENCE`, uint8 [n, 3, S, S]."""
    if name == REFERENCE:
        return random_real(dataset, keys, seed=run.settings.seed, tag=REFERENCE_TAG)
    size = dataset.image_size
    # Channels last in memory, the layout that networks are fastest with.
    pixels = torch.empty(len(keys), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for row, (c, image_index) in enumerate(keys):
        pixels[row] = _read_png(run.file(image_path(name, c, image_index)), size)
    return pixels


def _read_png(path: Path, size: int) -> Tensor:
    """Return an image as uint8 [3, S, S]; another size is refused before decoding."""
    try:
        with Image.open(path) as image:
            if image.size != (size, size):
                raise PrismError(
                    f"image {path} is {image.width} x {image.height}, not {size} pixels square; "
                    "run synthesis again"
                )
            pixels = np.array(image.convert("RGB"))
    except DECODE_ERRORS as error:
        raise PrismError(f"image {path} cannot be read: {error}; run synthesis again") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def is_decoded(run: Run, name: str, dataset: ImageDataset) -> bool:
    """Return whether the cache holds a large set in its present state."""
    count = len(dataset.classes) * run.settings.ipc
    path = _cache_path(run, name, dataset)
    return open_memmap(path, count=count, size=dataset.image_size) is not None


def _cache_path(run: Run, name: str, dataset: ImageDataset) -> Path:
    """Return the cache file of a set; its name is a hash of everything that decides the images."""
    classes = len(dataset.classes)
    inputs: object = [dataset.name, dataset.content_hash, run.settings.seed, REFERENCE_TAG]
    if name != REFERENCE:
        inputs = run.units.inputs_hash(tuple(u.marker for u in method_units(run, name, classes)))
    key = short_hash([name, inputs, classes * run.settings.ipc, dataset.image_size])
    return default_cache_dir() / "sets" / f"{key}.npy"


def set_bytes(settings: Settings, classes: int) -> int:
    """Return the bytes that a decoded set takes in the cache; 0 for small sets."""
    size = 3 * settings.image_size**2 * classes * settings.ipc
    return size if size > MAX_DECODED_BYTES else 0


def random_real(dataset: ImageDataset, keys: ImageKeys, *, seed: int, tag: str) -> Tensor:
    """Return random training images without repetition within a class.

    Image k of a class depends only on `seed`, `tag`, the class and k, and not on the other keys.

    Args:
        dataset: The real images.
        keys: Class and index of each image.
        seed: The run's seed.
        tag: Purpose of the subset; different tags give different subsets.

    Returns:
        uint8 [n, 3, S, S].
    """
    shuffled = {c: shuffled_indices(dataset, c, seed=seed, tag=tag) for c in {c for c, _ in keys}}
    return dataset.images("train", [int(shuffled[c][image_index]) for c, image_index in keys])


def shuffled_indices(dataset: ImageDataset, c: int, *, seed: int, tag: str) -> np.ndarray:
    """Return a class's training images, int64 [n], in the order of `random_real`."""
    indices = dataset.class_indices("train", c)
    return np.random.default_rng(unit_seed(seed, tag, c)).permutation(indices)


class DeviceImages:
    """Images stored on a device as bytes, and normalised on access.

    Bytes take a quarter of the memory: IPC 50 of ImageNet-1K is 7.5 GB.

    Args:
        pixels: uint8 [N, 3, S, S].
        dataset: Decides the pixel space.
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
    """Training images that are read from the dataset on access.

    Args:
        dataset: The real images.
        device: Device of the images returned.
    """

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
