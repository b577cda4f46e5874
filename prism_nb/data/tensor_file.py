"""Images and labels in files of `torch.save`, as DC, DSA, MTT and their descendants write them."""

from __future__ import annotations

import pickle
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
_PLAIN = ("torch.", "collections.", "numpy.", "_codecs.")  # what files of tensors name
# What NumPy's numbers are pickled as: the accuracies that DC writes beside the images.
_NUMPY = (
    *((np.float64(0).__reduce__()[0], f"numpy.{n}.multiarray.scalar") for n in ("core", "_core")),
    *(np.dtype, type(np.dtype(np.float64))),
)
_MARGIN = 0.1  # of the span from black to white, by which normalised images may exceed it


class TensorSet(ImageArchive):
    """Tensors as an archive that has an image `<label>/<number>.png` for each of theirs.

    Args:
        path: A file of images and labels, or of images with a file of labels beside it; or the
            folder that `folder` lists.
        dataset: Gives the mean and std by which images may be normalised.
        folder: The files of the folder.

    Raises:
        UsageError: A file is damaged or holds something else, or its values may mean several
            things.
    """

    def __init__(
        self, path: Path, dataset: ImageDataset, folder: ImageArchive | None = None
    ) -> None:
        self.path, self._folder = path, folder
        file = path / _image_file(folder) if folder else path
        images, labels = _images_and_labels(file)
        self._pixels, values = to_levels(images, dataset, file)
        self._rows = {f"{label}/{i:08d}.png": i for i, label in enumerate(labels.tolist())}
        self.names = [*self._rows, *(folder.lists if folder else ())]
        self.note = f"tensors of {file.name}, values taken as {values}: "

    def read(self, name: str) -> bytes:
        """Return an image as PNG, or a file of the folder."""
        if name in self._rows or self._folder is None:
            return encode_image(self._pixels[self._rows[name]], compress_level=0)
        return self._folder.read(name)


def _image_file(folder: ImageArchive) -> str:
    """Return the one file of a folder that holds images."""
    names = [name for name in folder.names if name.lower().endswith(TENSORS)]
    found = [n for n in names if _label_file(n) in {*names} - {n}] if len(names) > 1 else names
    if len(found) != 1:
        raise UsageError(f"{folder.path} holds {', '.join(names[:3])}; name the file of the images")
    return found[0]


def _label_file(name: str) -> str:
    """Return the path of the file of labels that belongs to a file of images: MTT's names."""
    place, slash, file = name.rpartition("/")
    return place + slash + file.replace("images", "labels")


def _images_and_labels(file: Path) -> tuple[Tensor, Tensor]:
    """Return images [N, 3, H, W] and class numbers [N]."""
    content, beside = _load(file), Path(_label_file(str(file)))
    if isinstance(content, dict):
        pair = [next((content[k] for k in keys if k in content), None) for keys in _KEYS]
        content = pair[0] if isinstance(pair[0], list) else pair  # DC: a list of experiments
    while isinstance(content, list | tuple) and content and isinstance(content[-1], list | tuple):
        content = content[-1]
    if isinstance(content, Tensor) and beside != file and beside.is_file():
        content = [content, _load(beside)]
    if not (isinstance(content, list | tuple) and [*map(type, content)] == [Tensor, Tensor]):
        raise UsageError(
            f"{file} does not hold a tensor of images and one of labels; save both as "
            "{'images': ..., 'labels': ...}, or the labels beside images*.pt as labels*.pt"
        )
    images, labels = content
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
        names, reason = list[str](), str(error)
        if isinstance(error, pickle.UnpicklingError):  # its advice is to run the file's code
            names = [n for n in torch_io.names_in_file(file) if not n.startswith(_PLAIN)]
            reason = "torch.save never writes such content"
        if not names:
            raise damage(file, "a file of torch.save", reason) from None
        raise UsageError(
            f"{file} holds objects other than tensors ({', '.join(sorted(names)[:3])}); save "
            "images and labels alone"
        ) from None


def to_levels(images: Tensor, dataset: ImageDataset, file: Path) -> tuple[Tensor, str]:
    """Return images as uint8, and what the least and the greatest value were taken for.

    These are levels (integers from 0 to 255), [0, 1], [0, 255], or images normalised by the
    dataset's mean and std. The last are told from [-1, 1] by a value beyond it; as distilled images
    are seldom clamped, they may be a little darker than black or brighter than white.

    Raises:
        UsageError: The values may mean several of these, or none.
    """
    low, high = images.min().item(), images.max().item()
    black, white = dataset.pixel_bounds(images.device)
    margin = _MARGIN * (white - black)
    span = f"{low:.4g} to {high:.4g}"
    if not images.is_floating_point():
        if low >= 0 and 1 < high <= 255:
            return images.to(torch.uint8), f"levels ({span})"
    elif low >= 0 and high <= 1:
        return (images * 255).round().to(torch.uint8), f"[0, 1] ({span})"
    elif low >= 0 and (white + margin).max() < high <= 255:
        return images.round().to(torch.uint8), f"[0, 255] ({span})"
    elif (low < -1 or (low < 0 and high > 1)) and bool(
        ((images >= black - margin) & (images <= white + margin)).all()
    ):
        normalised = f"normalised by the mean and std of {dataset.name} ({span})"
        return dataset.to_uint8(images.float()), normalised
    raise UsageError(
        f"{file} has values from {span}, which cannot be told to be [0, 1], [0, 255] or images "
        f"normalised by the mean and std of {dataset.name} ({black.min():.3g} to "
        f"{white.max():.3g}); save them as image files, as docs/methods.md shows"
    )
