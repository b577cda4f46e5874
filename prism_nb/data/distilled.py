"""Reading a method's synthetic images back from a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
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
from prism_nb.data.augment import ImageSet
from prism_nb.data.dataset import ImageDataset, shuffled_indices
from prism_nb.data.image_io import DECODE_ERRORS, cached_decode, open_memmap


def random_real(
    dataset: ImageDataset, members: Sequence[tuple[int, int]], *, seed: int, tag: str
) -> Tensor:
    """Return random training images without repetition within a class.

    Slot k of a class is the k-th of a shuffle that only `seed`, `tag` and the class decide, so
    that the choice does not depend on how slots are cut into batches.

    Args:
        dataset: The real images.
        members: (class, slot) of each image wanted.
        seed: The run's seed.
        tag: What the subset is for; other tags give other subsets.

    Returns:
        Pixels in the order of `members`, uint8 [n, 3, S, S].
    """
    shuffled = {
        c: shuffled_indices(dataset, c, seed=seed, tag=tag) for c in {c for c, _ in members}
    }
    return dataset.images("train", [int(shuffled[c][image_index]) for c, image_index in members])


ImageKeys = Sequence[tuple[int, int]]  # (class, slot) of images
Load = Callable[[Run, str, ImageDataset, ImageKeys], Tensor]
REFERENCE_TAG = "reference"  # of `data.subset.random_real`


class DeviceImages:
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
    members = [(c, image_index) for c in range(classes) for image_index in range(ipc)]
    labels = torch.arange(classes).repeat_interleave(ipc)
    if not set_bytes(run.settings, classes):
        return load(run, name, dataset, members), labels
    kept = cached_decode(
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
    return open_memmap(_file(run, name, dataset), count=count, size=dataset.image_size) is not None


def _file(run: Run, name: str, dataset: ImageDataset) -> Path:
    """Return where the cache holds a set; its name says all that decides the images."""
    classes = len(dataset.classes)
    made_from: object = [dataset.name, dataset.content, run.settings.seed, REFERENCE_TAG]
    if name != REFERENCE:
        made_from = run.content(tuple(u.marker for u in method_units(run, name, classes)))
    key = short_hash([name, made_from, classes * run.settings.ipc, dataset.image_size])
    return default_cache_dir() / "sets" / f"{key}.npy"


def load_members(run: Run, method: str, dataset: ImageDataset, members: ImageKeys) -> Tensor:
    """Read some images of a method, each a (class, slot), as uint8 [n, 3, S, S].

    They lie in memory channels last, as networks want them.
    """
    size = dataset.image_size
    pixels = torch.empty(len(members), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for place, (c, image_index) in enumerate(members):
        pixels[place] = _read(run, image_path(method, c, image_index), size)
    return pixels


def load_images_or_reference(run: Run, name: str, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Return a method's images, or the real reference under `plans.diversity.REFERENCE`."""
    if name == REFERENCE:
        return load_reference(run, dataset)
    return load_images(run, name, dataset)


def load_subset(run: Run, name: str, dataset: ImageDataset, members: ImageKeys) -> Tensor:
    """Return those of `load_set` that are named, each a (class, slot), uint8 [n, 3, S, S]."""
    if name == REFERENCE:
        return _reference(run, name, dataset, members)
    return load_members(run, name, dataset, members)


def load_reference(run: Run, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Return a random real subset of equal size, in the order of `load_images`.

    It is the yardstick of the diversity measures, drawn apart from the `random_real` method.
    """
    return _whole(run, REFERENCE, dataset, _reference)


def _reference(run: Run, _: str, dataset: ImageDataset, members: ImageKeys) -> Tensor:
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
    except DECODE_ERRORS as error:
        raise PrismError(
            f"image {run.file(path)} cannot be read: {error}; run synthesis again"
        ) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


MAX_DECODED_BYTES = 2**28  # bytes of a set that is simply read into memory
_LARGE_IMAGE = 1.1  # bytes of a PNG of noise per byte of its pixels, at most
_VIEW = 8 + 1 + 4 + 8 + 4  # bytes of crop, flip, partner, box and ratio


def image_bytes(settings: Settings, images: int) -> float:
    """Return the most bytes that so many images take; those of photographs are smaller."""
    return images * 3 * settings.image_size**2 * _LARGE_IMAGE


def set_bytes(settings: Settings, classes: int) -> int:
    """Return what a set of images takes of the cache once it is decoded; 0 for small ones."""
    taken = 3 * settings.image_size**2 * classes * settings.ipc
    return taken if taken > MAX_DECODED_BYTES else 0


def label_bytes(settings: Settings, images: int, classes: int) -> float:
    """Return the bytes of all epochs of labels of so many images; 0 where none are stored."""
    if settings.labels != "stored":
        return 0.0
    row = row_bytes(settings.label_format, classes, top_k=settings.label_top_k)
    return images * settings.label_epochs * (_VIEW + row)


MAX_RESIDENT_BYTES = 2**30  # bytes of pixels; CIFAR takes 154 MB, Tiny-ImageNet 1.2 GB


class StreamedImages:
    """Training images that stay where the dataset has them, until one looks at some.

    Args:
        dataset: The real images.
        device: Where they are looked at.
    """

    def __init__(self, dataset: ImageDataset, device: torch.device) -> None:
        self._dataset, self.device, self.size = dataset, device, dataset.image_size

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, canonical float32 [n, 3, S, S]."""
        pixels = self._dataset.images("train", rows.tolist())
        return self._dataset.canonical(pixels.to(self.device, memory_format=torch.channels_last))

    def __len__(self) -> int:
        """Return their number, N."""
        return len(self._dataset.labels("train"))


def open_train_images(dataset: ImageDataset, device: torch.device) -> DeviceImages | StreamedImages:
    """Return a dataset's training images: on the device as bytes if they are few, else streamed.

    Images that lie in files are decoded once beforehand, into a file that every later pass reads
    from, of this run or another.

    Raises:
        PrismError: An image is damaged, or the disk too small.
    """
    count = len(dataset.labels("train"))
    dataset.keep("train")
    if 3 * count * dataset.image_size**2 > MAX_RESIDENT_BYTES:
        return StreamedImages(dataset, device)
    pixels = dataset.images("train", range(count))
    return DeviceImages(pixels.to(device, memory_format=torch.channels_last), dataset)


def prefetch(images: ImageSet, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield images part by part; while one is worked on, the next is read where it is streamed.

    Args:
        images: The whole set.
        parts: Indices of each part, int64 [n], on the CPU.
    """
    if not isinstance(images, StreamedImages):
        yield from map(images.__getitem__, parts)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(images.__getitem__, parts[0])
        for part in parts[1:]:
            ready, coming = coming.result(), reader.submit(images.__getitem__, part)
            yield ready
        yield coming.result()


def row_bytes(kind: str, classes: int, *, top_k: int) -> int:
    """Return the bytes that one view's logits take."""
    kept = min(top_k, classes)
    return {
        "fp32": 4 * classes,
        "fp16": 2 * classes,
        "int8": classes + 8,
        "top_k": (2 + _id_type(classes).itemsize) * kept + 2,
    }[kind]


def _id_type(classes: int) -> torch.dtype:
    return torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32
