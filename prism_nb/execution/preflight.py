"""Preflight: checks that a run's settings can work on this machine, before any work."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from prism_nb.core.device import check_compiler, check_precision, choose_device
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import method_batches, network_unit, stat_networks
from prism_nb.core.units import is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.imported import imported_set
from prism_nb.data.registry import open_dataset
from prism_nb.execution.pipeline import finished_methods
from prism_nb.execution.ray_backend import require_ray
from prism_nb.execution.slurm_backend import require_slurm
from prism_nb.models.architectures import architecture_of
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.pretrained import (
    build_options,
    head_classes,
    native_preprocess,
    open_pretrained,
)
from prism_nb.models.teacher import check_bn, check_conv, linear_head
from prism_nb.models.weights import WeightsSpec, check_weights_present, resolve_weights
from prism_nb.models.zoo import META, build_network, build_on_meta, check_forward
from prism_nb.synthesis.features import middle_features
from prism_nb.synthesis.phases import Phases
from prism_nb.synthesis.ranking import GREEDY

# Protocols whose batches hold all images where there are fewer.
_UP_TO_A_BATCH = {"dc", "fair"}
Part = Literal["logits", "bn", "conv"]  # what a network gives


def preflight(settings: Settings, run: Run | None = None) -> ImageDataset:
    """Check a run's dataset, networks, methods and machine without training anything.

    What a run that exists has of images and weights needs no source any more.

    Returns:
        The run's dataset.

    Raises:
        UsageError: The first setting that cannot work, and the remedy.
    """
    _check_machine(settings)
    dataset = open_dataset(settings)
    if not dataset.has_images:
        _check_data_free(settings)
    _check_networks(settings, dataset, run)
    finished = finished_methods(run) if run else []
    for method in settings.methods:
        _check_method(settings, method, dataset)
        if settings.recipe_of(method).image_source == "imported" and method not in finished:
            imported_set(settings, method, dataset)
    if dataset.has_images:
        _check_image_counts(settings, dataset)
    return dataset


def _check_machine(settings: Settings) -> None:
    if settings.backend == "ray":
        require_ray(settings)
    if settings.backend == "slurm":
        require_slurm(settings)
    device = choose_device(settings.device)
    for part in (settings, settings.squeeze, settings.label, settings.student):
        check_precision(part.precision, device)
    if settings.compile:
        check_compiler(device)


def _check_networks(settings: Settings, dataset: ImageDataset, run: Run | None) -> None:
    """Check that networks exist, fit the images, and have the layers that their use needs."""
    if not settings.fetch_weights:
        missing = [
            name
            for name in filter(is_pretrained_name, settings.networks)
            if run is None
            or not run.units.is_done(network_unit(settings, name), verify_hashes=False)
        ]
        check_weights_present(missing)
    bn, conv = _networks_with_statistics(settings)
    for name in dict.fromkeys([*settings.networks, *settings.students]):
        needs: set[Part] = {"bn"} if name in bn else set()
        needs |= {"conv"} if name in conv else set()
        needs |= {"logits"} if name not in settings.bn_only else set()
        check_network(name, dataset, needs, resample=settings.resample)


def _networks_with_statistics(settings: Settings) -> tuple[set[str], set[str]]:
    """Return the networks whose BN layers, and whose convolutions, some method aligns."""
    bn, conv = set[str](), set[str]()
    for method in settings.methods:
        recipe = settings.recipe_of(method)
        networks = set(stat_networks(settings, method))
        if recipe.statistics == "bn_conv":
            conv |= networks
        elif recipe.image_source == "optimized":
            if recipe.no_bn_policy == "zero" and not recipe.has_groups:
                networks &= {settings.pool.scale_reference}
            bn |= networks
    return bn, conv


def check_network(
    name: str, dataset: ImageDataset, needs: Collection[Part], *, resample: bool = True
) -> None:
    """Check a network with its weights, or without them if they are still to be downloaded.

    `needs` is what it has to give: logits, statistics of BN layers, or of convolutions.

    Raises:
        UsageError: No such network, no such layers, or another size or head.
    """
    weights = resolve_weights(name) if is_pretrained_name(name) else None
    _check_network(name, weights, dataset, frozenset(needs), resample)


@lru_cache(maxsize=256)  # the runs of a study use the same networks
def _check_network(
    name: str,
    weights: WeightsSpec | None,
    dataset: ImageDataset,
    needs: frozenset[Part],
    resample: bool,
) -> None:
    classes, size = len(dataset.classes), dataset.image_size
    if weights is None:
        network = build_network(name, classes=classes, image_size=size)
    elif weights.file.is_file():
        found = open_pretrained(name, dataset, resample=resample, gives_logits="logits" in needs)
        network, size = found.network, found.preprocess.size
        classes = len(found.classes) or classes
    else:
        if "logits" in needs:
            head_classes(weights, weights.head or classes, dataset)
        cpu = torch.device("cpu")
        network = untrained_teacher(name, dataset, cpu, resample=resample).network
        size = native_preprocess(name, dataset, resample=resample).size
    check_forward(name, network, classes=classes, image_size=size)
    if "bn" in needs:
        check_bn(name, network)
    if "conv" in needs:
        check_conv(name, network)


def only_part(name: str, dataset: ImageDataset, *, resample: bool) -> str | None:
    """Return the setting that has to name a network of the pool, since it can play one part only.

    Returns:
        `bn_only` for one without a head for the dataset's classes, `logits_only` for one without
        batch norm, None for one that can do both.

    Raises:
        UsageError: It can do neither.
    """
    parts: dict[str | None, set[Part]] = {
        None: {"bn", "logits"},
        "bn_only": {"bn"},
        "logits_only": {"logits"},
    }
    problems = []
    for setting, needs in parts.items():
        try:
            check_network(name, dataset, needs, resample=resample)
        except UsageError as error:
            problems.append(error)
        else:
            return setting
    raise problems[0]


def _check_method(settings: Settings, method: str, dataset: ImageDataset) -> None:
    """Check a method's batches, and that there are real images enough to start from."""
    recipe = settings.recipe_of(method)
    batches = method_batches(settings, method, len(dataset.classes))
    # A single image may come nearer to the statistics of its class, not to those of all.
    needs_several = recipe.match == "statistics" and recipe.targets != "class"
    is_optimized = recipe.image_source == "optimized"
    if is_optimized and needs_several and any(len(batch.members()) < 2 for batch in batches):
        raise UsageError(
            f"method {method}: a unit would be a single image; raise batch_size or ipc, or use "
            "other batches"
        )
    each = recipe.real_per_image(dataset.image_size)
    if each:
        dataset.check_per_class(settings.ipc, purpose=f"method {method} (real images)", each=each)
    if recipe.by_difficulty:
        dataset.check_per_class(settings.ipc, purpose=f"method {method} (difficulty groups)")
    needed = settings.ipc * each
    most = recipe.max_scored_images
    if recipe.needs_scorer and most is not None and most < needed:
        raise UsageError(f"method {method}: max_scored_images is {most}; raise it to {needed}")
    if recipe.needs_scorer and (recipe.init in GREEDY or recipe.residual_source == "retrieved"):
        linear_head(settings.primary, _on_meta(settings.primary, dataset))
    _check_sizes(settings, method, dataset)
    grid = recipe.grid(dataset.image_size)
    if recipe.has_tiles and dataset.image_size % grid:
        fitting = max(n for n in range(1, grid) if dataset.image_size % n == 0)
        raise UsageError(
            f"method {method}: mosaic_grid {grid} does not divide the image size "
            f"{dataset.image_size}; set it to {fitting}"
        )
    if recipe.match == "features" and recipe.init == "mosaic" and grid == 1:
        raise UsageError(
            f"method {method}: an image of one tile is the real image already; set mosaic_grid to 2"
        )
    for name in recipe.networks(settings.pool, "features"):
        size, network = dataset.image_size, _on_meta(name, dataset).eval()
        try:
            middle_features(network, network, torch.zeros(2, 3, size, size, device=META))
        except UsageError as error:
            raise UsageError(f"method {method}, network {name!r}: {error}") from None


def _check_sizes(settings: Settings, method: str, dataset: ImageDataset) -> None:
    """Check that a method's networks take images of every size that its phases have."""
    recipe = settings.recipe_of(method)
    for name in recipe.networks(settings.pool, "logits", "drawn"):
        for size in set(Phases.of(recipe, dataset.image_size).sizes) - {dataset.image_size}:
            if size < 1:
                raise UsageError(
                    f"method {method}: sizes has {min(recipe.sizes)}, which is less than a pixel "
                    f"of {dataset.image_size}; raise it, or leave that phase out"
                )
            network = _on_meta(name, dataset)
            try:
                check_forward(name, network, classes=len(dataset.classes), image_size=size)
            except UsageError as error:
                raise UsageError(
                    f"method {method}, sizes: {error}, or set sizes to {[1] * len(recipe.sizes)}"
                ) from None


def _on_meta(name: str, dataset: ImageDataset) -> nn.Module:
    classes, size = len(dataset.classes), dataset.image_size
    options = build_options(name)
    return build_on_meta(architecture_of(name), classes=classes, image_size=size, options=options)


def _check_data_free(settings: Settings) -> None:
    """Check that nothing in a run needs real images, since it has none."""
    given = [name for name in settings.networks if is_pretrained_name(name)]
    untrained = ", ".join(name for name in settings.networks if name not in given)
    unknown = ", ".join(name for name in given if resolve_weights(name).preprocess is None)
    needs: dict[str, object] = {
        "students are evaluated on them: set students to []": settings.students,
        "train_on_real is set: leave it out": settings.train_on_real,
        f"{untrained} would be trained on them: name weights": untrained,
        f"mean and std of {unknown} could only be checked on them: write these into a YAML file "
        "beside the weights (docs/weights.md)": unknown,
        "label_ensemble accuracy weights networks by them: choose another": (
            settings.label.ensemble == "accuracy"
        ),
    }
    for method in settings.methods:
        recipe, where = settings.recipe_of(method), f"method {method}"
        needs |= {
            f"{where} takes them as its result: leave it out": recipe.image_source == "initial",
            f"{where} starts from them: set init to noise": recipe.real_per_image(1),
            f"{where} measures convolutions on them: set statistics to bn": (
                recipe.statistics == "bn_conv"
            ),
            f"{where} measures groups of them: set targets to running": recipe.has_groups,
            f"{where} scales losses by them: set bn_distance to relative": (
                recipe.bn_normalize == "real"
            ),
        }
    for problem, is_needed in needs.items():
        if is_needed:
            raise UsageError(
                f"the run has no real images (data_dir is not set), but {problem}; or name the "
                f"folder of {settings.dataset} by --set data_dir=PATH"
            )


def _check_image_counts(settings: Settings, dataset: ImageDataset) -> None:
    dataset.check_per_class(settings.ipc, purpose="the real reference of the diversity")
    count = len(dataset.classes) * settings.ipc
    if count < 2:
        raise UsageError("one image in all is too few to train a student with batch norm")
    batches = {"student_batch": settings.student.batch if settings.students else 0}
    if settings.label.statistics == "batch":
        batches["label_batch"] = settings.label.batch
    for name, batch in batches.items():
        if settings.protocol not in _UP_TO_A_BATCH and batch > count:
            raise UsageError(
                f"{name} is {batch} (protocol {settings.protocol}), but a method has {count} "
                f"images in all; raise ipc, or set {name} to {count} or less"
            )
    images = len(dataset.labels("train"))
    trains = not all(map(is_pretrained_name, settings.networks))
    if trains and settings.squeeze.batch > images:
        raise UsageError(
            f"squeeze_batch is {settings.squeeze.batch}, but {dataset.name} has only {images} "
            "training images; lower it"
        )
