"""What a student is taught from: images, their classes, and what each epoch says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from prism_nb.artifacts.images import Resident, load_images
from prism_nb.artifacts.labels import EpochLabels, LabelStore
from prism_nb.artifacts.views import ImageSet, Views, epoch_views, plain_views
from prism_nb.data import open_dataset
from prism_nb.plans.evaluation import is_hard, is_plain
from prism_nb.run import Run
from prism_nb.settings import REFERENCE, Settings
from prism_nb.teachers.labeller import Labeller, load_labeller
from prism_nb.training.images import Streamed, real_images


@dataclass(frozen=True)
class Material:
    """What a student is taught from.

    Attributes:
        images: Images, N of them, on the device to train on.
        classes: Their classes, int64 [N], there too.
        labels_of: Returns the views and labels of an epoch, there too.
    """

    images: ImageSet
    classes: Tensor
    labels_of: Callable[[int], EpochLabels]


def material_of(run: Run, method: str, treatment: str, device: torch.device) -> Material:
    """Return a method's images, or all real ones under `REFERENCE`, and the labels to learn from.

    Args:
        run: The run.
        method: The method, or `REFERENCE`.
        treatment: One of `settings.TREATMENTS`.
        device: Where to.
    """
    dataset = open_dataset(run.settings)
    images: Resident | Streamed
    if method == REFERENCE:
        images, classes = real_images(dataset, device), torch.from_numpy(dataset.labels("train"))
    else:
        pixels, classes = load_images(run, method, dataset)
        images = Resident(pixels.to(device, memory_format=torch.channels_last), dataset)
    return Material(images, classes.to(device), _labels(run, method, treatment, images))


def _labels(
    run: Run, method: str, treatment: str, images: Resident | Streamed
) -> Callable[[int], EpochLabels]:
    """Return where an epoch's views and labels come from."""
    settings, plain = run.settings, is_plain(treatment)
    views_of = partial(_views, settings, images, plain=plain)
    if is_hard(settings, treatment):
        return lambda epoch: EpochLabels(views_of(epoch), None)
    if plain:
        views = views_of(0)
        same = EpochLabels(views, load_labeller(run)(images, views))
        return lambda epoch: same
    if settings.labels == "online":
        return _spoken(load_labeller(run), images, views_of)
    store, count = LabelStore(run, method), len(images)
    return lambda epoch: store.load(_kept(settings, epoch), images.device, count=count)


def _spoken(
    labeller: Labeller, images: Resident | Streamed, views_of: Callable[[int], Views]
) -> Callable[[int], EpochLabels]:
    """Have teachers label an epoch when it is asked for."""

    def labels_of(epoch: int) -> EpochLabels:
        views = views_of(epoch)
        return EpochLabels(views, labeller(images, views))

    return labels_of


def _views(settings: Settings, images: Resident | Streamed, epoch: int, *, plain: bool) -> Views:
    if plain:
        return plain_views(len(images), images.size, images.device)
    return epoch_views(settings, len(images), _kept(settings, epoch), images.device)


def _kept(settings: Settings, epoch: int) -> int:
    """Return the epoch whose views are shown: one that came before, where they are used again."""
    return epoch % settings.label_epochs if settings.label_reuse else epoch
