"""Opening a run: which settings it has, and whether they can work here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prism_nb.core.config import (
    build_settings,
    default_runs_dir,
    load_settings,
    merge,
    resolve_references,
    short_hash,
)
from prism_nb.core.device import check_compiler, check_precision, choose_device
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run, check_name
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import method_batches, network_unit, stat_networks
from prism_nb.core.units import is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.imported import imported_set
from prism_nb.data.registry import open_dataset
from prism_nb.execution.pipeline import finished_methods
from prism_nb.execution.ray_backend import require_ray
from prism_nb.execution.slurm_backend import require_slurm
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.pretrained import head_row_indices, native_preprocess, open_pretrained
from prism_nb.models.teacher import check_bn, check_conv
from prism_nb.models.weights import check_weights_present, resolve_weights
from prism_nb.models.zoo import build_network, check_forward


def open_run(
    *,
    run_name: str | None = None,
    preset: str | None = None,
    runs_dir: str | Path | None = None,
    changes: dict[str, Any] | None = None,
) -> Run:
    """Open a run, or begin it, and make sure that its settings can work here.

    Args:
        run_name: Folder under `runs_dir`; the preset's name where None.
        preset: Settings of a new run; an existing run needs none and keeps its own.
        runs_dir: Folder of the runs; `default_runs_dir` where None.
        changes: Settings to change, by flat name.

    Raises:
        UsageError: Anything that cannot work, found before any work begins.
    """
    from prism_nb.data.registry import open_dataset

    run = load_run(run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes)
    run.require_unmixed()
    passed = short_hash(run.settings.plain())
    if run.manifest().get("preflight") != passed:
        pass

        preflight(run.settings, run)
    run = Run.create(run.path, run.settings)
    dataset = open_dataset(run.settings)
    run.write_classes(dataset.class_records())
    run.update_manifest(preflight=passed, images_left_out=list(dataset.corrupt_files))
    return run


def load_run(
    *,
    run_name: str | None = None,
    preset: str | None = None,
    runs_dir: str | Path | None = None,
    changes: dict[str, Any] | None = None,
) -> Run:
    """Return a run and its settings without writing or checking anything further.

    With a preset, the settings are the preset's and the changes; without, the existing run's and
    the changes. See `open_run` for the arguments.
    """
    name = Path(preset).stem if run_name is None and preset else run_name
    if name is None:
        raise UsageError("name a run or a preset")
    check_name(name)
    path = (Path(runs_dir).absolute() if runs_dir else default_runs_dir()) / name
    if preset is not None:
        return Run(path, _bound(load_settings(preset, changes)))
    run = Run.open(path)
    changes = dict(changes or {})
    if changes.get("protocol") == run.settings.protocol:
        del changes["protocol"]  # the run has its values, and its own changes to them
    if not changes:
        return run
    values = merge(run.settings.plain(), resolve_references(changes, Path()))
    return Run(path, build_settings(values, where=f"run {name}"))


def _bound(settings: Settings) -> Settings:
    """Return settings that say which images they mean; unknown datasets fail at the preflight."""
    if settings.data_dir is None:
        return settings
    from prism_nb.data.registry import with_dataset_hash

    return with_dataset_hash(settings)


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
    check_backend(settings)
    device = choose_device(settings.device)
    for part in (settings, settings.squeeze, settings.label, settings.student):
        check_precision(part.precision, device)
    if settings.compile == "always":
        check_compiler(device)
    dataset = open_dataset(settings)
    needs_bn = {n for method in settings.methods for n in _must_have_bn(settings, method)}
    needs_conv = {n for method in settings.methods for n in _must_have_conv(settings, method)}
    if not settings.fetch_weights:
        check_weights_present(
            [name for name in settings.networks if _is_wanting(settings, run, name)]
        )
    for name in dict.fromkeys([*settings.networks, *settings.students]):
        wanted = {"needs_bn": name in needs_bn, "needs_conv": name in needs_conv}
        if is_pretrained_name(name):
            _check_given(name, dataset, **wanted)
        else:
            _check_network(name, len(dataset.classes), dataset.image_size, **wanted)
    made = finished_methods(run) if run else []
    for method in settings.methods:
        _check_method(settings, method, dataset)
        if settings.recipe_of(method).image_source == "imported" and method not in made:
            imported_set(settings, method, dataset)
    dataset.check_per_class(settings.ipc, purpose="the real reference of the diversity")
    _check_counts(settings, dataset)
    return dataset


def check_backend(settings: Settings) -> None:
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
    if not is_pretrained_name(name):
        return False
    return run is None or run.inspect(network_unit(settings, name), deep=False).state != "done"


@lru_cache(maxsize=256)
def _check_network(
    name: str, classes: int, image_size: int, *, needs_bn: bool, needs_conv: bool
) -> None:
    """Build a network and try it out; once per process, since a study asks again and again."""
    network = build_network(name, classes=classes, image_size=image_size)
    check_forward(name, network, classes=classes, image_size=image_size)
    _require_layers(name, network, needs_bn=needs_bn, needs_conv=needs_conv)


@lru_cache(maxsize=256)
def _check_given(name: str, dataset: ImageDataset, *, needs_bn: bool, needs_conv: bool) -> None:
    """Read a network's weights, or build it where they are still to be fetched, and try it out."""
    source = resolve_weights(name)
    if source.file.is_file():
        taken = open_pretrained(name, dataset)
        network, size = taken.network, taken.preprocess.size
    else:
        head_row_indices(source, source.head or len(dataset.classes), dataset)
        network = untrained_teacher(name, dataset, torch.device("cpu")).network
        size = native_preprocess(name, dataset).size
    check_forward(name, network, classes=len(dataset.classes), image_size=size)
    _require_layers(name, network, needs_bn=needs_bn, needs_conv=needs_conv)


def _require_layers(name: str, network: nn.Module, *, needs_bn: bool, needs_conv: bool) -> None:
    if needs_bn:
        check_bn(name, network)
    if needs_conv:
        check_conv(name, network)


def _must_have_bn(settings: Settings, method: str) -> set[str]:
    recipe = settings.recipe_of(method)
    if recipe.image_source != "optimized" or recipe.statistics == "bn_conv":
        return set()
    networks = set(stat_networks(settings, method))
    if recipe.no_bn_policy == "zero":
        networks &= {settings.primary}
    return networks


def _must_have_conv(settings: Settings, method: str) -> set[str]:
    if settings.recipe_of(method).statistics != "bn_conv":
        return set()
    return set(stat_networks(settings, method))


def _check_method(settings: Settings, method: str, dataset: ImageDataset) -> None:
    recipe = settings.recipe_of(method)
    batches = method_batches(settings, method, len(dataset.classes))
    if recipe.image_source == "optimized" and any(len(batch.members()) < 2 for batch in batches):
        raise UsageError(
            f"method {method}: a unit would be a single image, which has no statistics worth "
            "aligning; raise batch_size or ipc, or use other batches"
        )
    each = recipe.real_per_image(dataset.image_size)
    needed = settings.ipc * each
    if each:
        dataset.check_per_class(settings.ipc, purpose=f"method {method} (real images)", each=each)
    if recipe.needs_scorer and recipe.max_scored_images < needed:
        raise UsageError(
            f"method {method}: max_scored_images is {recipe.max_scored_images}, but "
            f"{needed} per class "
            "are to be chosen; raise it"
        )
    grid = recipe.grid(dataset.image_size)
    if recipe.init == "patches" and dataset.image_size % grid:
        raise UsageError(
            f"method {method}: mosaic_grid {grid} does not divide the image size "
            f"{dataset.image_size}; set it to 1"
        )


def _check_counts(settings: Settings, dataset: ImageDataset) -> None:
    images = len(dataset.classes) * settings.ipc
    if images < 2:
        raise UsageError("one image in all is too few to train a student with batch norm")
    if settings.squeeze.batch > len(dataset.labels("train")):
        raise UsageError(
            f"squeeze_batch is {settings.squeeze.batch}, but {dataset.name} has only "
            f"{len(dataset.labels('train'))} training images"
        )
