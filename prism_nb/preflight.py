"""Checks before any work: everything that would fail hours later fails here, by name."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from prism_nb.backends.ray_cluster import require_ray
from prism_nb.backends.slurm_executor import require_slurm
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.device import choose_device, require_compiler, require_precision
from prism_nb.errors import UsageError
from prism_nb.exchange.imported import imported_set
from prism_nb.pipeline import made_methods
from prism_nb.plans.squeeze import network_unit
from prism_nb.plans.synthesis import method_batches, watched_networks
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.teachers.networks import build_network, require_fit
from prism_nb.teachers.pool import fresh_teacher
from prism_nb.teachers.pretrained import head_rows, open_pretrained, own_space
from prism_nb.teachers.sources import find_source, require_sources
from prism_nb.teachers.teacher import require_bn, require_conv
from prism_nb.units import has_weights


def preflight(settings: Settings, run: Run | None = None) -> ImageDataset:
    """Try out dataset, networks and counts of a run without training anything.

    Args:
        settings: The run's.
        run: The run, which may hold images and weights that are no longer where they came from.

    Returns:
        The run's dataset.

    Raises:
        UsageError: The first thing that cannot work, and what to do about it.
    """
    require_backend(settings)
    device = choose_device(settings.device)
    for name in ("precision", "label_precision", "student_precision", "squeeze_precision"):
        require_precision(getattr(settings, name), device)
    if settings.engine == "compiled":
        require_compiler(device)
    dataset = open_dataset(settings)
    needs_bn = {n for method in settings.methods for n in _must_have_bn(settings, method)}
    needs_conv = {n for method in settings.methods for n in _must_have_conv(settings, method)}
    if not settings.fetch_weights:
        require_sources([name for name in settings.networks if _is_wanting(settings, run, name)])
    for name in dict.fromkeys([*settings.networks, *settings.students]):
        wanted = {"needs_bn": name in needs_bn, "needs_conv": name in needs_conv}
        if has_weights(name):
            _check_given(name, dataset, **wanted)
        else:
            _check_network(name, len(dataset.classes), dataset.image_size, **wanted)
    made = made_methods(run) if run else []
    for method in settings.methods:
        _check_method(settings, method, dataset)
        if settings.recipe_of(method).images == "imported" and method not in made:
            imported_set(settings, method, dataset)
    dataset.require_per_class(settings.ipc, purpose="the real reference of the diversity")
    _check_counts(settings, dataset)
    return dataset


def require_backend(settings: Settings) -> None:
    """Check that whoever is to do the units can be had from here; starts nothing.

    Raises:
        PrismError: What is missing, and what to do about it.
    """
    if settings.backend == "ray":
        require_ray(settings)
    if settings.backend == "slurm":
        require_slurm(settings)


def _is_wanting(settings: Settings, run: Run | None, name: str) -> bool:
    """Return whether a network's weights are still to be taken from elsewhere."""
    if not has_weights(name):
        return False
    return run is None or run.inspect(network_unit(settings, name), deep=False).state != "done"


@lru_cache(maxsize=256)
def _check_network(
    name: str, classes: int, image_size: int, *, needs_bn: bool, needs_conv: bool
) -> None:
    """Build a network and try it out; once per process, since a study asks again and again."""
    network = build_network(name, classes=classes, image_size=image_size)
    require_fit(name, network, classes=classes, image_size=image_size)
    _require_layers(name, network, needs_bn=needs_bn, needs_conv=needs_conv)


@lru_cache(maxsize=256)
def _check_given(name: str, dataset: ImageDataset, *, needs_bn: bool, needs_conv: bool) -> None:
    """Read a network's weights, or build it where they are still to be fetched, and try it out."""
    source = find_source(name)
    if source.file.is_file():
        taken = open_pretrained(name, dataset)
        network, size = taken.network, taken.space.size
    else:
        head_rows(source, source.head or len(dataset.classes), dataset)
        network = fresh_teacher(name, dataset, torch.device("cpu")).network
        size = own_space(name, dataset).size
    require_fit(name, network, classes=len(dataset.classes), image_size=size)
    _require_layers(name, network, needs_bn=needs_bn, needs_conv=needs_conv)


def _require_layers(name: str, network: nn.Module, *, needs_bn: bool, needs_conv: bool) -> None:
    if needs_bn:
        require_bn(name, network)
    if needs_conv:
        require_conv(name, network)


def _must_have_bn(settings: Settings, method: str) -> set[str]:
    recipe = settings.recipe_of(method)
    if recipe.images != "recovered" or recipe.statistics == "bn_conv":
        return set()
    networks = set(watched_networks(settings, method))
    if recipe.bn_less == "count":
        networks &= {settings.primary}
    return networks


def _must_have_conv(settings: Settings, method: str) -> set[str]:
    if settings.recipe_of(method).statistics != "bn_conv":
        return set()
    return set(watched_networks(settings, method))


def _check_method(settings: Settings, method: str, dataset: ImageDataset) -> None:
    recipe = settings.recipe_of(method)
    batches = method_batches(settings, method, len(dataset.classes))
    if recipe.images == "recovered" and any(len(batch.members()) < 2 for batch in batches):
        raise UsageError(
            f"method {method}: a unit would be a single image, which has no statistics worth "
            "aligning; raise batch_size or ipc, or use other batches"
        )
    each = recipe.real_per_image(dataset.image_size)
    needed = settings.ipc * each
    if each:
        dataset.require_per_class(settings.ipc, purpose=f"method {method} (real images)", each=each)
    if recipe.is_scored and recipe.score_most < needed:
        raise UsageError(
            f"method {method}: score_most is {recipe.score_most}, but {needed} images per class "
            "are to be chosen; raise it"
        )
    grid = recipe.grid(dataset.image_size)
    if recipe.init == "patches" and dataset.image_size % grid:
        raise UsageError(
            f"method {method}: patch_grid {grid} does not divide the image size "
            f"{dataset.image_size}; set it to 1"
        )


def _check_counts(settings: Settings, dataset: ImageDataset) -> None:
    images = len(dataset.classes) * settings.ipc
    if images < 2:
        raise UsageError("one image in all is too few to train a student with batch norm")
    if settings.squeeze_batch > len(dataset.labels("train")):
        raise UsageError(
            f"squeeze_batch is {settings.squeeze_batch}, but {dataset.name} has only "
            f"{len(dataset.labels('train'))} training images"
        )
