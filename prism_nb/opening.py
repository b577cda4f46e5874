"""Opening a run: which settings it has, and whether they can work here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prism_nb.config import (
    check_settings,
    default_runs_dir,
    digest,
    load_settings,
    merge,
    spelled_out,
)
from prism_nb.errors import UsageError
from prism_nb.run import Run, check_name
from prism_nb.settings import Settings


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
    from prism_nb.data import open_dataset

    run = find_run(run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes)
    run.require_unmixed()
    passed = digest(run.settings.plain())
    if run.manifest().get("preflight") != passed:
        from prism_nb.preflight import preflight

        preflight(run.settings, run)
    run = Run.create(run.path, run.settings)
    dataset = open_dataset(run.settings)
    run.write_classes(dataset.class_records())
    run.update_manifest(preflight=passed, images_left_out=list(dataset.damaged))
    return run


def find_run(
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
    values = merge(run.settings.plain(), spelled_out(changes, Path()))
    return Run(path, check_settings(values, where=f"run {name}"))


def _bound(settings: Settings) -> Settings:
    """Return settings that say which images they mean; unknown datasets fail at the preflight."""
    if settings.data_dir is None:
        return settings
    from prism_nb.data import with_content

    return with_content(settings)
