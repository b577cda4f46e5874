"""Opening a run that is to be looked at, and what is odd about it."""

from __future__ import annotations

from pathlib import Path

from prism_nb.errors import UsageError
from prism_nb.provenance import newer_kit
from prism_nb.run import Run

Place = Run | Path | str  # a run, or its folder


def open_watched(place: Place) -> Run:
    """Return the run that is to be looked at.

    Raises:
        UsageError: There is no run that this version of the kit can read; says what to do.
    """
    if isinstance(place, Run):
        return place
    path = Path(place).absolute()
    if not path.is_dir():
        raise UsageError(f"no folder {path}; name a run's folder, under runs_dir")
    if (path / "study.json").exists():
        raise UsageError(f"{path} is a study's folder; name one of the runs in it")
    if not (path / "config.yaml").is_file():
        raise UsageError(
            f"no run has begun in {path}: it has no config.yaml; open a notebook on it"
        )
    return Run.open(path)


def oddities(run: Run) -> str:
    """Return what to beware of with a run that can be read, in a sentence; empty: nothing."""
    newer = newer_kit(run.manifest())
    return f"{newer[0].upper()}{newer[1:]}; update the kit to see all of it." if newer else ""
