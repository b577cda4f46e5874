"""Generated image trees in ImageNet's layout, with the oddities of the real one, and weights.

Every picture shows its class's number as the grey of three nested squares, at any size and mode,
so that a mistaken class is visible in any image that was cut out of its centre.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.device import seeded
from prism_nb.data.image_io import IMAGENET_MARGIN
from prism_nb.data.imagenet import IMAGENET_CHANNELS
from prism_nb.models.weights_file import WeightsMetadata, to_safetensors
from prism_nb.models.zoo import build_network
from tests.helpers.image_trees import age

_ORIENTATION = 0x0112  # of EXIF
_EDGES = (1 / 3, 2 / 3)  # between the squares, as shares of half the shorter side
_DARKEST, _APART = 16, 24  # grey of digit 0, and between two digits
_WINDOWS = ((0.0, 0.2), (0.42, 0.58), (0.76, 0.84))  # where a square is read, far from its edges
_GRAIN = 4.0


class _Kind(NamedTuple):
    """A sort of image file."""

    mode: str  # Pillow's
    sides: tuple[int, int]  # the least and the largest, in pixels
    form: str = "JPEG"  # or PNG; the file is called .JPEG either way, as a PNG of ImageNet is
    turned: bool = False  # whether EXIF turns or mirrors the picture


_KINDS = (
    _Kind("RGB", (64, 140)),
    _Kind("L", (64, 140)),
    _Kind("CMYK", (64, 140)),
    _Kind("RGBA", (64, 140), "PNG"),
    _Kind("P", (64, 140), "PNG"),
    _Kind("RGB", (64, 140), turned=True),
    _Kind("RGB", (18, 30)),
)
_LARGE = _Kind("RGB", (1500, 2200))  # one per `_LARGE_EVERY` classes, since they take long to write
_LARGE_EVERY = 50


def make_tree(root: Path, wnids: Sequence[str], *, train: int) -> None:
    """Write `train/<wnid>/*.JPEG` and one `val/<wnid>/*.JPEG` per class, always the same.

    Args:
        root: The dataset's folder.
        wnids: The classes, in order; class i shows the number i, below 1,000.
        train: Training images per class.
    """
    for split, count in (("train", train), ("val", 1)):
        for label, wnid in enumerate(wnids):
            folder = root / split / wnid
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                content = _image_file(label, _kind_of(label, i, split), seed=(split == "val", i))
                (folder / f"{wnid}_{split}_{i}.JPEG").write_bytes(content)
    age(root)  # an index is cached only of folders that have not just changed


def write_random_weights(path: Path, architecture: str, classes: list[str], size: int) -> None:
    """Write a network with random weights for images of a size, and its head's class order."""
    with seeded(0, torch.device("cpu")):
        network = build_network(architecture, classes=len(classes), image_size=size)
    mean, std = IMAGENET_CHANNELS
    metadata = WeightsMetadata(
        mean=mean, std=std, size=size, interpolation="bilinear", classes=tuple(classes)
    )
    fileio.write_bytes(path, to_safetensors(network.state_dict(), metadata))


def numbers_shown(images: np.ndarray) -> np.ndarray:
    """Return the numbers [N] shown by images of `read_image`, uint8 [N, 3, S, S]."""
    side = images.shape[-1]
    nearness = _nearness(side, side) / IMAGENET_MARGIN
    red, green, blue = (images[:, channel].astype(np.float64) for channel in range(3))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    found = np.zeros(len(images), dtype=np.int64)
    for low, high in _WINDOWS:
        window = (nearness >= low) & (nearness < high)
        level = np.median(grey[:, window], axis=1)
        found = 10 * found + ((level - _DARKEST) / _APART).round().clip(0, 9).astype(np.int64)
    return found


def _kind_of(label: int, index: int, split: str) -> _Kind:
    """Return the kind of a file: all kinds in turn, and here and there a large photograph."""
    if split == "train" and index == 0 and label % _LARGE_EVERY == 0:
        return _LARGE
    return _KINDS[(label + index + 3 * (split == "val")) % len(_KINDS)]


def _image_file(label: int, kind: _Kind, *, seed: tuple[int, int]) -> bytes:
    """Return the content of an image file of a class."""
    rng = np.random.default_rng([label, *seed])
    width, height = (int(side) for side in rng.integers(*kind.sides, size=2, endpoint=True))
    nearness = _nearness(width, height)
    digits = np.array([label // 100, label // 10 % 10, label % 10])
    grey = _DARKEST + _APART * digits[np.digitize(nearness, _EDGES)]
    pixels = grey[..., None] + rng.normal(0, _GRAIN, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image = image.convert(kind.mode)
    if kind.mode == "RGBA":  # transparent where no cut out of the middle reaches
        image.putalpha(Image.fromarray(np.where(nearness < 0.92, 255, 0).astype(np.uint8)))
    exif = Image.Exif()
    if kind.turned:
        exif[_ORIENTATION] = int(rng.integers(2, 9))
    content = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind.form == "JPEG" else {}
    image.save(content, kind.form, exif=exif, **options)
    return content.getvalue()


def _nearness(width: int, height: int) -> np.ndarray:
    """Return each pixel's distance from the centre, in halves of the shorter side [H, W].

    It is the larger of the distances along both axes, so that equal ones form squares, which no
    turn and no mirror changes.
    """
    across, down = (np.abs(np.arange(side) + 0.5 - side / 2) for side in (width, height))
    return np.maximum(across[None, :], down[:, None]) / (min(width, height) / 2)
