"""Whether the disks hold what is left of a whole run, found before its first stage."""

from __future__ import annotations

import shutil
from pathlib import Path

from prism_nb import pipeline
from prism_nb.config import default_cache_dir
from prism_nb.errors import PrismError
from prism_nb.forecast import cache_bytes
from prism_nb.run import Run
from prism_nb.tables import size_in_words


def require_room(run: Run) -> None:
    """Check that there is room for all that is left of a run, stage by stage and of the cache.

    What is there already needs none. Images are counted as if they were noise, so that the sum is
    the most that can be needed; markers, figures and checkpoints come on top, and are small.

    Raises:
        PrismError: There is less; with what each part needs, and what is free.
    """
    plans = [pipeline.plan(run, stage, deep=False) for stage in pipeline.STAGES]
    parts = {plan.stage: pipeline.bytes_left(run, plan) for plan in plans}
    left = [unit for plan in plans for unit in plan.left]
    cache, folder = {"decoded images": cache_bytes(run, left)}, default_cache_dir()
    if _is_one_disk(run.path, folder):
        _require(run, parts | cache, run.path, "choose another folder for the runs")
        return
    _require(run, parts, run.path, "choose another folder for the runs")
    _require(run, cache, folder, "set PRISM_CACHE to a folder on a larger disk")


def _require(run: Run, parts: dict[str, int], folder: Path, remedy: str) -> None:
    needed, free = sum(parts.values()), shutil.disk_usage(_there(folder)).free
    if needed <= free:
        return
    words = ", ".join(f"{name} {size_in_words(size)}" for name, size in parts.items() if size)
    raise PrismError(
        f"run {run.name} still needs up to {size_in_words(needed)} at {folder} ({words}), but "
        f"{size_in_words(free)} are free; free some space, {remedy}, or do the stages that fit one "
        "by one by `prism-nb stage`"
    )


def _is_one_disk(one: Path, other: Path) -> bool:
    return _there(one).stat().st_dev == _there(other).stat().st_dev


def _there(folder: Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())
