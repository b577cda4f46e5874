"""Taking a network with weights from elsewhere into a run, and trying it out on real images."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from prism_nb.data import ImageDataset
from prism_nb.teachers.accuracy import guesses, share_right
from prism_nb.teachers.checkpoints import serialise
from prism_nb.teachers.inspection import inspect_network
from prism_nb.teachers.order import few_images, require_order
from prism_nb.teachers.pool import as_teacher
from prism_nb.teachers.pretrained import Pretrained, open_pretrained
from prism_nb.teachers.sources import fetch, find_source, require_sources
from prism_nb.teachers.teacher import PixelSpace, Teacher


def find_weights(name: str, *, may_fetch: bool) -> None:
    """Make sure that a network's weights are here.

    Raises:
        UsageError: They are not, and may not or cannot be fetched.
    """
    source = find_source(name)
    if may_fetch and not source.file.is_file():
        fetch(source)
    require_sources([name])


def take_network(
    name: str, dataset: ImageDataset, device: torch.device
) -> tuple[bytes, dict[str, Any]]:
    """Return a network's weights, cut to a dataset's classes, once real images confirm these.

    Args:
        name: A network with weights, which are here.
        dataset: What it is to classify.
        device: Where it is tried out.

    Returns:
        The content of a weights file, and what is worth recording.

    Raises:
        PrismError: The weights do not fit, or the head's classes are not the dataset's.
    """
    taken = open_pretrained(name, dataset)
    facts = inspect_network(name, taken.network, image_size=taken.space.size)
    content = serialise(taken.network.state_dict(), note_of(dataset, taken.space))
    teacher = as_teacher(name, taken.network, dataset, taken.space, device)
    least = _least_accuracy(taken.source.accuracy, dataset, taken.space)
    _try_order(teacher, dataset, least, device)
    labels, guessed = dataset.labels("val"), guesses(teacher, dataset, "val", device)
    folders = [info.folder for info in dataset.classes]
    checked = require_order(name, guessed, labels, folders=folders, accuracy=least)
    accurate = share_right(guessed, labels)
    for words in _doubts(taken, folders, accurate, checked=checked):
        warnings.warn(words, stacklevel=2)
    record = {**asdict(facts), **taken.facts(), "accuracy": accurate, "order_checked": checked}
    return content, record


def note_of(dataset: ImageDataset, space: PixelSpace) -> dict[str, Any]:
    """Return what a weights file says of itself, for runs that take it as `NAME@file`."""
    return {"space": asdict(space), "classes": [info.folder for info in dataset.classes]}


def _least_accuracy(
    published: float | None, dataset: ImageDataset, space: PixelSpace
) -> float | None:
    """Return what accuracy is believed of a head in the right order, by the published one.

    Half of it where the images are as large as the network's, a quarter where they are at least
    half as large; of smaller ones nothing can be said.
    """
    if published is None or 2 * dataset.image_size < space.size:
        return None
    return published / 2 if dataset.image_size >= space.size else published / 4


def _try_order(
    teacher: Teacher, dataset: ImageDataset, accuracy: float | None, device: torch.device
) -> None:
    """Check a head's order on a few images, before all of them are gone through."""
    places = few_images(dataset)
    images = dataset.canonical(dataset.images("val", places.tolist()).to(device))
    with torch.no_grad():
        guessed: np.ndarray = teacher(images).argmax(1).cpu().numpy()
    folders = [info.folder for info in dataset.classes]
    labels = dataset.labels("val")[places]
    require_order(teacher.name, guessed, labels, folders=folders, accuracy=accuracy)


def _doubts(taken: Pretrained, folders: list[str], accurate: float, *, checked: bool) -> list[str]:
    """Return in words what somebody should know of a network before a long run leans on it."""
    name, doubts = taken.source.name, []
    if taken.head > len(folders):
        doubts.append(
            f"network {name!r}: of the {taken.head} classes of its head, the {len(folders)} of "
            "the dataset are kept"
        )
    if not checked:
        doubts.append(
            f"network {name!r}: whether its head has the dataset's classes in their order could "
            f"not be told from the held-out images, of which it knows {100 * accurate:.1f} %; make "
            "sure of it before a long run"
        )
    return doubts
