"""What the notebooks call: parameters in, one resumable call, figures and tables out."""

from __future__ import annotations

import ast
import html
import os
import time
from collections.abc import Callable, Collection
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, Image, display

from prism_nb.core.config import preset_names
from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.yaml_io import write_yaml
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.execution.progress import StageProgress
from prism_nb.execution.study import StudyFolder, default_workers, execute_study, study_names
from prism_nb.viz import tables
from prism_nb.viz.figures.diversity import FIGURES, DashboardView, render_view
from prism_nb.viz.html import (
    EncodedImage,
    HasPath,
    LabelMap,
    rename_labels,
    save_figure,
    save_picture,
    table_html,
)
from prism_nb.viz.study_report import study_labels
from prism_nb.viz.style import PLOTLY_CSS

_PLOTLY = "application/vnd.plotly.v1+json"
_LOOK = f"<style>{PLOTLY_CSS}</style>"  # for all figures of the notebook
_PLACES = ("run_name", "preset", "runs_dir")
_STUDY_PLACES = ("study", "name", "runs_dir", "workers")


def open_run(namespace: dict[str, Any]) -> Run:
    """Open the run that a notebook's parameters name, and show its settings.

    A run that exists keeps its settings; a new one takes them from the preset, by default the
    preset of the run's name. Parameters that are not None change them.

    Args:
        namespace: The notebook's `globals()`.

    Raises:
        UsageError: A parameter that does not exist, a value of the wrong type, or settings that
            would mix results.
    """
    _refuse_unknown(namespace, valid={*Settings.model_fields, *_PLACES})
    changes = {n: namespace[n] for n in Settings.model_fields if namespace.get(n) is not None}
    run_name, preset, runs_dir = (_text(namespace, place) for place in _PLACES)
    if preset is None and run_name in preset_names() and not _exists(run_name, runs_dir):
        preset = run_name
    run = open_run_module.open_run(
        run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes
    )
    display(HTML(f"{_LOOK}<b>Run</b> <code>{html.escape(str(run.path))}</code>"))
    table = table_html(tables.settings_table(run))
    display(HTML(f"<details><summary>All settings</summary>{table}</details>"))
    return run


def open_study(namespace: dict[str, Any]) -> StudyFolder:
    """Open the study that a notebook's parameters name, and show what it consists of.

    Args:
        namespace: The notebook's `globals()`.

    Raises:
        UsageError: A parameter that does not exist, a value of the wrong type, or a study that
            cannot be.
    """
    _refuse_unknown(namespace, valid=_STUDY_PLACES)
    study, name, runs_dir = (_text(namespace, place) for place in ("study", "name", "runs_dir"))
    if study is None:
        raise UsageError(f"study: name one of {', '.join(study_names())}, or a YAML file")
    folder = StudyFolder.open(study, runs_dir=runs_dir, name=name)
    display(HTML(f"{_LOOK}<b>Study</b> <code>{html.escape(str(folder.path))}</code>"))
    spec = html.escape(write_yaml(folder.study.plain()))
    display(HTML(f"<details><summary>The study</summary><pre>{spec}</pre></details>"))
    return folder


def run_study(folder: StudyFolder, workers: int | None = None) -> StudyFolder:
    """Do what is left of a study, a line per finished run; call it again after interruptions.

    Returns:
        The folder with what has been done.
    """
    lines = display(HTML(""), display_id=True)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        lines.update(HTML(f"<pre>{html.escape(chr(10).join(said[-8:]))}</pre>"))

    execute_study(folder, workers=workers or default_workers(), say=say)
    return folder.fresh()


def show_plan(run: Run, stage: str) -> None:
    """Show what is done and what is left of a stage, and what that takes by a few real steps."""
    show_table(tables.plan_table(pipeline.plan(run, stage, measure=True)))


def show_table(table: pd.DataFrame, of: HasPath | None = None) -> None:
    """Show a table, numbers to three digits and missing values as a dash.

    Args:
        table: The table.
        of: The run or study whose methods it names, so that they are shown by their titles.
    """
    display(HTML(table_html(rename_labels(table, _words(of)))))


def show_scores(run: Run) -> None:
    """Show DD-Ranking's scores, or what the run would need for all of them."""
    show_table(tables.score_table(run))
    missing = tables.missing_for_scores(run)
    if missing:
        wanted = ", ".join(f"<code>{html.escape(setting)}</code>" for setting in missing)
        display(HTML(f"For all four scores this run lacks: {wanted}"))


def run_stage(run: Run, stage: str) -> None:
    """Do what is left of a stage, with a progress bar; call it again after any interruption."""
    units = len(pipeline.stage_units(run, stage))
    bar = _Bar(stage) if run.settings.progress else None
    outcome = pipeline.execute(run, stage, StageProgress(units, bar) if bar else None)
    if bar:
        bar.close()
    done = f"{outcome.made} units made, {outcome.kept} were there already, {outcome.seconds:.1f} s"
    display(HTML(f"<b>{stage}</b>: {done}"))


def check_stage(run: Run, stage: str) -> None:
    """Check that a stage is complete and whole, and say so."""
    found = pipeline.check(run, stage)
    display(HTML(f"<b>{stage}</b>: all {len(found.states)} units are complete and whole"))


def show_figure(run: HasPath, name: str, figure: go.Figure, table: pd.DataFrame) -> None:
    """Show a figure, the same numbers as a table, and where both are saved, if they can be."""
    saved = _saved(run, lambda: save_figure(run, name, figure, table, _words(run)))
    # The bare MIME bundle: the renderers of plotly.io take seconds to load and add nothing here.
    display({_PLOTLY: figure.to_plotly_json(), "text/plain": name}, raw=True)
    if len(table):
        show_table(table, run)
    display(HTML(saved))


def show_view(run: Run, view: DashboardView) -> None:
    """Show a figure of the diversity dashboard, or say in words why there is none."""
    found = render_view(run, view)
    if found.figure is None or found.table is None:
        display(HTML(f"<b>{FIGURES[view.what].title}</b>: {html.escape(found.words)}"))
        return
    show_figure(run, f"diversity_{view.what}", found.figure, found.table)


def show_picture(run: Run, name: str, picture: EncodedImage, *, caption: str) -> None:
    """Show a picture under its caption, and where it is saved, if it can be."""
    saved = _saved(run, lambda: save_picture(run, name, picture))
    display(HTML(f"<b>{caption}</b>"), Image(picture.content, format=picture.kind), HTML(saved))


def _saved(place: HasPath, save: Callable[[], str]) -> str:
    """Save something, and say where; a folder that is for reading alone may be looked at."""
    figures = place.path / "figures"
    if not os.access(figures if figures.exists() else place.path, os.W_OK):
        return "not saved: the folder is for reading alone"
    return f"saved as <code>{save()}</code>"


def method_titles(run: Run) -> dict[str, str]:
    """Return how each method, and the real reference, is called in figures."""
    names = (REFERENCE, *run.settings.methods)
    return {name: tables.method_title(run, name) for name in names}


def _words(place: HasPath | None) -> LabelMap:
    if isinstance(place, Run):
        return {"method": method_titles(place)}
    return study_labels(place).words if isinstance(place, StudyFolder) else {}


class _Bar:
    """A bar that is drawn over itself, at most once a second, so that the last state stays."""

    def __init__(self, stage: str) -> None:
        self._stage, self._begin, self._drawn = stage, time.monotonic(), 0.0
        self._handle = display(HTML(self._html(0.0, "")), display_id=True)

    def __call__(self, share: float, unit: str) -> None:
        if time.monotonic() - self._drawn >= 1.0:
            self._drawn = time.monotonic()
            self._handle.update(HTML(self._html(share, unit)))

    def close(self) -> None:
        """Take the bar away; a line with the outcome follows."""
        self._handle.update(HTML(""))

    def _html(self, share: float, unit: str) -> str:
        label = f"{self._stage} {share:.0%}, {time.monotonic() - self._begin:.0f} s {unit}"
        return (
            f"<progress value='{share:.3f}' max='1' aria-label='{self._stage}' "
            f"style='width:20em'></progress> {html.escape(label)}"
        )


def _text(namespace: dict[str, Any], place: str) -> str | None:
    value = namespace.get(place)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{place}: text is needed, got {value!r}; put it in quotes")
    return value


def _exists(run_name: str | None, runs_dir: str | None) -> bool:
    try:
        open_run_module.load_run(run_name=run_name, runs_dir=runs_dir)
    except UsageError:
        return False
    return True


def _refuse_unknown(namespace: dict[str, Any], *, valid: Collection[str]) -> None:
    """Check every name that a parameters cell assigns.

    Papermill only warns of a parameter that a notebook does not have. The cells that it injects
    begin with "# Parameters", and so do the notebooks' own.
    """
    for source in namespace.get("In", []):
        if source.startswith("# Parameters"):
            for name in _assigned(source):
                if name not in valid:
                    raise UsageError(f"unknown parameter {name!r}; {suggest(name, valid)}")


def _assigned(source: str) -> list[str]:
    names: list[str] = []
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
