"""Folders of the kit, and paths that users give."""

from __future__ import annotations

import os
from pathlib import Path

from prism_nb.core.errors import UsageError


def project_root() -> Path:
    """Return the clone of the kit: the folder that holds `notebooks/presets`.

    That is `PRISM_HOME`, else the nearest folder above the working directory, else the one the
    package was installed from in editable mode.
    """
    named = os.environ.get("PRISM_HOME")
    here, installed = Path.cwd(), Path(__file__).resolve().parents[2]
    for folder in [Path(named)] if named else [here, *here.parents, installed]:
        if (folder / "notebooks" / "presets").is_dir():
            return folder
    raise UsageError(
        f"no notebooks/presets in {named or here} or above; work inside a clone of the kit or set "
        "PRISM_HOME to one"
    )


def default_runs_dir() -> Path:
    """Return the folder of the runs: `PRISM_RUNS`, else `data/runs` of the clone."""
    named = os.environ.get("PRISM_RUNS")
    return absolute_path(named) if named else project_root() / "data" / "runs"


def runs_folder(runs_dir: str | Path | None) -> Path:
    """Return the folder of the runs that a user names, or `default_runs_dir` where None."""
    return absolute_path(runs_dir) if runs_dir else default_runs_dir()


def default_cache_dir() -> Path:
    """Return the folder of indexes, decoded images and weights: `PRISM_CACHE` or `data/cache`."""
    named = os.environ.get("PRISM_CACHE")
    return absolute_path(named) if named else project_root() / "data" / "cache"


def absolute_path(path: str | Path) -> Path:
    """Return an absolute path without `~`, variables of the environment and `..`.

    With `..`, a path would depend on folders that it does not lead to, such as the clone in
    `clone/../images`. Links behind the last `..` are kept, since their targets may move.
    """
    given = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 (never raises)
    parts = Path(given).absolute().parts
    start = max((place + 1 for place, part in enumerate(parts) if part == ".."), default=0)
    return Path(*parts[:start]).resolve().joinpath(*parts[start:]) if start else Path(*parts)


def data_folder(dataset: str, data_dir: Path | None) -> Path:
    """Return a dataset's folder `data_dir`, which must be set and exist."""
    if data_dir is None:
        raise UsageError(
            f"dataset {dataset} needs data_dir, the folder that holds its images; set it in the "
            "preset, or by --set data_dir=PATH"
        )
    if not data_dir.is_dir():
        raise UsageError(
            f"data_dir {data_dir} is no folder; name the folder that holds the images of dataset "
            f"{dataset}"
        )
    return data_dir
