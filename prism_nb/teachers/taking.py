"""Taking a network with weights from elsewhere into a run, and trying it out on real images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from prism_nb.data import ImageDataset
from prism_nb.teachers.accuracy import accuracy
from prism_nb.teachers.checkpoints import serialise
from prism_nb.teachers.inspection import inspect_network
from prism_nb.teachers.order import few_images, require_order
from prism_nb.teachers.pool import as_teacher
from prism_nb.teachers.pretrained import open_pretrained
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
    published = _comparable(taken.source.accuracy, dataset, taken.space)
    _try_order(teacher, dataset, published, device)
    accurate, total = accuracy(teacher, dataset, "val", device), len(dataset.labels("val"))
    classes = len(dataset.classes)
    right = round(accurate * total)
    checked = require_order(name, right, total, classes=classes, published=published)
    record = {**asdict(facts), **taken.facts(), "accuracy": accurate, "order_checked": checked}
    return content, record


def note_of(dataset: ImageDataset, space: PixelSpace) -> dict[str, Any]:
    """Return what a weights file says of itself, for runs that take it as `NAME@file`."""
    return {"space": asdict(space), "classes": [info.folder for info in dataset.classes]}


def _comparable(published: float | None, dataset: ImageDataset, space: PixelSpace) -> float | None:
    """Return a published accuracy if the dataset's images are large enough to come near it."""
    return published if 2 * dataset.image_size >= space.size else None


def _try_order(
    teacher: Teacher, dataset: ImageDataset, published: float | None, device: torch.device
) -> None:
    """Check a head's order on a few images, before all of them are gone through."""
    places = few_images(dataset)
    images = dataset.canonical(dataset.images("val", places.tolist()).to(device))
    labels = torch.from_numpy(dataset.labels("val")[places]).to(device)
    with torch.no_grad():
        right = int((teacher(images).argmax(1) == labels).sum())
    classes = len(dataset.classes)
    require_order(teacher.name, right, len(labels), classes=classes, published=published)
