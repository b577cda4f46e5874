"""Images and labels in files of `torch.save`, as DC, DSA, MTT and their descendants write them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prism_nb.core import torch_io
from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.image_archive import ImageArchive, damage
from prism_nb.data.image_io import encode_image

TENSORS = (".pt", ".pth")
_KEYS = (  # of images and of labels, preferred ones first
    ("images", "image", "data", "x", "image_syn"),
    ("labels", "label", "targets", "target", "y", "label_syn"),
)
# What NumPy's numbers are pickled as: the accuracies that DC writes beside the images.
_NUMPY = (
    *((np.float64(0).__reduce__()[0], f"numpy.{n}.multiarray.scalar") for n in ("core", "_core")),
    *(np.dtype, type(np.dtype(np.float64))),
)
_NORMALISED = {  # by DC's get_dataset, with other deviations than these images have
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "tiny_imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_MARGIN = 0.1  # how far images may exceed black and white, which are 0 and 1
_LEAST_SPAN = 0.75  # from the darkest to the brightest value, unless they are levels or [0, 1]


class TensorSet(ImageArchive):
    """Tensors as an archive that has an image `<label>/<number>.png` for each of theirs.

    `path` is a file of images and labels, or of images with a file of labels beside it; or their
    folder, with the names of its files. The dataset gives mean and std by which images may be
    normalised.

    Raises:
        UsageError: A file is damaged or holds something else, or its values may mean several
            things.
    """

    def __init__(self, path: Path, dataset: ImageDataset, names: Sequence[str] = ()) -> None:
        self.path, file = path, path / _image_file(path, names) if names else path
        images, labels = _images_and_labels(file)
        self._pixels, values = to_levels(images, dataset, file)
        self._rows = {f"{label}/{i:08d}.png": i for i, label in enumerate(labels.tolist())}
        self.names = [*self._rows, *names]
        self.note = f"tensors of {file.name}, values taken as {values}: "

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield images as PNG files, which are not compressed."""
        rows = (self._rows[name] for name in names)
        return (encode_image(self._pixels[row], compress_level=0) for row in rows)


def _image_file(path: Path, names: Sequence[str]) -> str:
    """Return the one file of a folder that holds images."""
    names = [name for name in names if name.lower().endswith(TENSORS)]
    found = [n for n in names if _label_file(n) in {*names} - {n}] if len(names) > 1 else names
    if len(found) != 1:
        raise UsageError(f"{path} holds {', '.join(names[:3])}; name the file of the images")
    return found[0]


def _label_file(name: str) -> str:
    """Return the path of the file of labels that belongs to a file of images: MTT's names."""
    place, slash, file = name.rpartition("/")
    return place + slash + re.sub("images(_zca)?", "labels", file)


def _images_and_labels(file: Path) -> tuple[Tensor, Tensor]:
    """Return images [N, 3, H, W] and class numbers [N]."""
    content, beside = _load(file), Path(_label_file(str(file)))
    if isinstance(content, dict):
        found = [next((content[k] for k in keys if k in content), None) for keys in _KEYS]
        content = found[0] if isinstance(found[0], list) else found  # DC: a list of experiments
    while isinstance(content, list | tuple) and content and isinstance(content[-1], list | tuple):
        content = content[-1]
    if isinstance(content, Tensor) and beside != file and beside.is_file():
        content = [content, _load(beside)]
    pair: Sequence[Any] = content if isinstance(content, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(each, Tensor) for each in pair):
        raise UsageError(
            f"{file} does not hold a tensor of images and one of labels; save both as "
            "{'images': ..., 'labels': ...}"
        )
    images, labels = pair
    if any(each.layout != torch.strided for each in pair):
        raise UsageError(f"{file} has sparse tensors; save what `to_dense` returns")
    is_of_images = images.ndim == 4 and images.shape[1] in {1, 3} and not images.is_complex()
    is_of_numbers = not labels.is_floating_point() and bool((labels >= 0).all())
    if not (len(images) and is_of_images and is_of_numbers and labels.shape == images.shape[:1]):
        raise UsageError(
            f"{file} has images {[*images.shape]} and labels {[*labels.shape]} of {labels.dtype}, "
            "but images [N, 3 or 1, H, W] and class numbers [N], from 0, are needed"
        )
    return images.detach().expand(-1, 3, -1, -1), labels


def _load(file: Path) -> Any:
    try:
        return torch_io.load_torch_file(file, also=_NUMPY)
    except Exception as error:  # a damaged archive fails in many ways
        # Its own advice on other objects is to run the file's code.
        is_object = isinstance(error, pickle.UnpicklingError)
        reason = "it holds more than tensors, or is damaged" if is_object else error
        raise damage(file, "a file of torch.save", reason) from None


def to_levels(images: Tensor, dataset: ImageDataset, file: Path) -> tuple[Tensor, str]:
    """Return images as uint8, and what the least and the greatest value were taken for.

    These are levels (integers from 0 to 255), [0, 1], [0, 255], or images normalised by mean and
    std. As distilled images are seldom clamped, [0, 1] and what was normalised may be a little
    darker than black and brighter than white. Normalised images cover most of the span between
    these, and more than [-1, 1]; [0, 255] has most of its span as well.
    """
    low, high = images.min().item(), images.max().item()
    mean, std = _NORMALISED.get(dataset.name, (dataset.mean, dataset.std))
    whole = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    least, most = whole.min().item(), whole.max().item()
    span, end = f"{low:.4g} to {high:.4g}", 1 + _MARGIN
    if not images.is_floating_point():
        if low >= 0 and 1 < high <= 255:
            return images.to(torch.uint8), f"levels ({span})"
    elif low >= -_MARGIN and _MARGIN < high <= end:  # black alone may mean anything
        return _rounded(images), f"[0, 1] ({span})"
    elif low >= 0 and most > end and high - low >= 255 * _LEAST_SPAN and high <= 255:
        return _rounded(images / 255), f"[0, 255] ({span})"
    elif (
        (least >= -_MARGIN and most <= end)
        and most - least >= _LEAST_SPAN
        and not (low >= -end and high <= end)
    ):
        return _rounded(whole), f"normalised by mean {mean} and std {std} ({span})"
    raise UsageError(
        f"{file} has values from {span}, which cannot be told to be [0, 1], [0, 255] or normalised "
        f"by mean {mean} and std {std}; save them as image files (docs/methods.md)"
    )


def _rounded(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
