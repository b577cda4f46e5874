"""Bytes that a run writes to its folder and to the cache of decoded images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from prism_nb.core.errors import PrismError
from prism_nb.core.paths import default_cache_dir
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.text import format_bytes
from prism_nb.core.unit_plan import batch_of
from prism_nb.core.units import Unit, is_pretrained_name
from prism_nb.data.dataset import Split
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import label_bytes
from prism_nb.models.architectures import architecture_of
from prism_nb.models.pretrained import build_options
from prism_nb.models.zoo import BuildOptions, build_on_meta

_PNG_OVERHEAD = 1.1  # largest PNG, of noise, over the bytes of its pixels


def disk_bytes(run: Run, units: Sequence[Unit], classes: int) -> int:
    """Return the most bytes that unfinished units will write: images, labels and weights.

    Label files that were written before an interruption are not counted.
    """
    methods = [unit.params["method"] for unit in units if unit.stage == "relabel"]
    files = [path for method in methods for path in run.file(f"labels/{method}").glob("epoch_*")]
    whole = sum(unit_bytes(run.settings, unit, classes) for unit in units)
    return max(0, round(whole) - sum(path.stat().st_size for path in files))


def unit_bytes(settings: Settings, unit: Unit, classes: int) -> float:
    """Return the most bytes of a unit's files; statistics of layers are no larger than weights."""
    if unit.stage == "synthesis":
        return len(batch_of(unit).members()) * 3 * settings.image_size**2 * _PNG_OVERHEAD
    if unit.stage == "relabel":
        return label_bytes(settings, classes * settings.ipc, classes)
    networks = [unit.params.get("network"), unit.params.get("student")]
    networks += unit.params.get("networks", ())
    return sum(weight_bytes(name, classes, settings.image_size) for name in networks if name)


def weight_bytes(name: str, classes: int, image_size: int) -> float:
    """Return the bytes of a network's weights and running statistics."""
    return _weight_bytes(architecture_of(name), classes, image_size, build_options(name))


@lru_cache(maxsize=256)
def _weight_bytes(architecture: str, classes: int, image_size: int, options: BuildOptions) -> float:
    network = build_on_meta(architecture, classes=classes, image_size=image_size, options=options)
    return float(sum(value.nbytes for value in network.state_dict().values()))


def cache_bytes(run: Run, units: Sequence[Unit]) -> int:
    """Return the most bytes that unfinished units will add to the cache of decoded images.

    These are held-out images where networks are evaluated, and training images where networks are
    trained on all of them.
    """
    splits: set[Split] = set()
    for unit in units:
        if unit.stage in {"squeeze", "evaluation"}:
            splits |= {"val", "train"} if trains_on_all_real(unit) else {"val"}
    return open_dataset(run.settings).uncached_bytes(splits) if splits else 0


def trains_on_all_real(unit: Unit) -> bool:
    """Return whether a unit trains a network on all real training images."""
    if unit.stage == "squeeze":
        measures = {"patch", "networks"} & unit.params.keys()
        return not (measures or is_pretrained_name(unit.params["network"]))
    return unit.stage == "evaluation" and unit.params["method"] == REFERENCE


def check_disk_space(run: Run, stages: Mapping[str, int], cache_size: int = 0) -> None:
    """Check that the disks have room for what is left of a run.

    `stages` are bytes that each will write to the run at most, `cache_size` those of the decoded
    images in the cache.

    Raises:
        PrismError: A disk is too small; the message lists the needed and the free space.
    """
    cached = {"decoded images": cache_size}
    if _existing(run.path).stat().st_dev == _existing(default_cache_dir()).stat().st_dev:
        _check_free(run, {**stages, **cached}, run.path)
    else:
        _check_free(run, stages, run.path)
        _check_free(run, cached, default_cache_dir())


def _check_free(run: Run, parts: Mapping[str, int], folder: Path) -> None:
    needed, free = sum(parts.values()), shutil.disk_usage(_existing(folder)).free
    if needed > free:
        listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)
        raise PrismError(
            f"run {run.name} needs up to {format_bytes(needed)} more at {folder} ({listed}), but "
            f"{format_bytes(free)} are free; free some space, or set PRISM_RUNS or PRISM_CACHE to "
            "folders on larger disks"
        )


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())
