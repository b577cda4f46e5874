"""All real training images of a dataset, to be gone over again and again, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from prism_nb.artifacts.images import Resident
from prism_nb.artifacts.views import ImageSet
from prism_nb.data import ImageDataset

MOST_RESIDENT = 2**30  # bytes of pixels; CIFAR takes 154 MB, Tiny-ImageNet 1.2 GB


class Streamed:
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


def real_images(dataset: ImageDataset, device: torch.device) -> Resident | Streamed:
    """Return a dataset's training images: on the device as bytes if they are few, else streamed.

    Images that lie in files are decoded once beforehand, into a file that every later pass reads
    from, of this run or another.

    Raises:
        PrismError: An image is damaged, or the disk too small.
    """
    count = len(dataset.labels("train"))
    dataset.keep("train")
    if 3 * count * dataset.image_size**2 > MOST_RESIDENT:
        return Streamed(dataset, device)
    pixels = dataset.images("train", range(count))
    return Resident(pixels.to(device, memory_format=torch.channels_last), dataset)


def in_turn(images: ImageSet, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield images part by part; while one is worked on, the next is read where it is streamed.

    Args:
        images: The whole set.
        parts: Indices of each part, int64 [n], on the CPU.
    """
    if not isinstance(images, Streamed):
        yield from map(images.__getitem__, parts)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(images.__getitem__, parts[0])
        for part in parts[1:]:
            ready, coming = coming.result(), reader.submit(images.__getitem__, part)
            yield ready
        yield coming.result()
