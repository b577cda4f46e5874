"""Opening a run: its settings, which are checked without anything that imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prism_nb.core.config import (
    build_settings,
    load_settings,
    merge,
    resolve_references,
    short_hash,
)
from prism_nb.core.errors import UsageError
from prism_nb.core.paths import data_folder, runs_folder
from prism_nb.core.run import Run, check_name
from prism_nb.core.settings import Settings
from prism_nb.models.architectures import architecture_of, resolve_architecture

# Modules that import torch are imported once they are needed, so that wrong names are refused in
# less than a second.


def open_run(
    *,
    run_name: str | None = None,
    preset: str | None = None,
    runs_dir: str | Path | None = None,
    changes: dict[str, Any] | None = None,
) -> Run:
    """Open a run, or begin it, and check that its settings work on this machine.

    Args:
        run_name: Folder under `runs_dir`; the preset's name where None.
        preset: Settings of a new run; an existing run needs none and keeps its own.
        runs_dir: Folder of the runs; `default_runs_dir` where None.
        changes: Settings to change, by flat name.

    Raises:
        UsageError: The first setting that cannot work, found before any work begins.
    """
    run = load_run(run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes)
    run.check_settings()
    from prism_nb.data.registry import open_dataset

    passed = short_hash(run.settings.plain())
    if run.manifest.read().get("preflight") != passed:
        from prism_nb.execution.preflight import preflight

        preflight(run.settings, run)
    run = Run.create(run.path, run.settings)
    run.write_classes(open_dataset(run.settings).class_records())
    run.manifest.update(preflight=passed)
    return run


def load_run(
    *,
    run_name: str | None = None,
    preset: str | None = None,
    runs_dir: str | Path | None = None,
    changes: dict[str, Any] | None = None,
) -> Run:
    """Return a run and its settings without writing or checking anything further.

    The settings are the preset's with the changes; without a preset, the existing run's with the
    changes. See `open_run` for the arguments.
    """
    name = run_name or (Path(preset).stem if preset else None)
    if name is None:
        raise UsageError("name a run or a preset")
    check_name(name)
    path = runs_folder(runs_dir) / name
    if preset is not None:
        settings = load_settings(preset, changes)
        _check_names(settings)
        if settings.data_dir and not settings.download:
            data_folder(settings.dataset, Path(settings.data_dir))
        from prism_nb.data.registry import with_dataset_hash

        return Run(path, with_dataset_hash(settings))
    run = Run.open(path)
    changes = dict(changes or {})
    if changes.get("protocol") == run.settings.protocol:
        del changes["protocol"]  # the run has its values, and its own changes to them
    if not changes:
        return run
    values = merge(run.settings.plain(), resolve_references(changes, Path()))
    settings = build_settings(values, where=f"run {name}")
    _check_names(settings)
    return Run(path, settings)


def _check_names(settings: Settings) -> None:
    for network in (*settings.networks, *settings.students):
        resolve_architecture(architecture_of(network))
