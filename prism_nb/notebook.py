"""Functions of the notebooks: open a run, do a stage, show results by name."""

from __future__ import annotations

import ast
import html
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, display

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.presets import presets, studies
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.check import check_folder
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.metrics import metrics_of
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.execution.progress import StageProgress
from prism_nb.execution.study import StudyFolder, execute_study, plan_table, plan_values
from prism_nb.synthesis.walkthrough import walked_classes
from prism_nb.viz import tables
from prism_nb.viz.classes import class_label
from prism_nb.viz.html import (
    Result,
    figure_bundle,
    file_link,
    folder_link,
    save_figure,
    save_picture,
    saved_html,
    table_html,
)
from prism_nb.viz.inspector import inspector_script, sheet_html
from prism_nb.viz.report import write_report
from prism_nb.viz.results import RUN_PICTURES, RUN_RESULTS, run_labels
from prism_nb.viz.study_report import STUDY_RESULTS, study_labels, write_study_page
from prism_nb.viz.widgets.base import KeyboardBox, dropdown
from prism_nb.viz.widgets.dashboard import DiversityDashboard
from prism_nb.viz.widgets.gallery import Gallery
from prism_nb.viz.widgets.run_monitor import RunMonitor
from prism_nb.viz.widgets.teacher_picker import TeacherPicker

__all__ = [
    *("open_run", "open_study", "check_data", "plan", "run_stage", "run_study", "check"),
    *("table", "figure", "pictures", "report"),
    *("choose", "picker", "monitor", "gallery", "dashboard"),
]

# The widgets of a run; `display` shows them, `value` has what was chosen.
picker, monitor, gallery, dashboard = TeacherPicker, RunMonitor, Gallery, DiversityDashboard

Bundle = dict[str, Any]  # an output by its MIME types

_RUN_PARAMETERS = ("run_name", "preset", "runs_dir")
_STUDY_PARAMETERS = ("study", "name", "runs_dir", "workers")


def open_run(namespace: dict[str, Any]) -> Run:
    """Open the run that a notebook's parameters name, and show its settings.

    A run that exists keeps its settings; a new one takes them from the preset, by default the
    preset of the run's name. Parameters that are not None change them. The namespace is the
    notebook's `globals()`; what a startup file has put there is no parameter.

    Raises:
        UsageError: A parameter that does not exist, a value of the wrong type, or settings that
            would mix results.
    """
    assigned = _check_parameters(namespace, valid={*Settings.fields(), *_RUN_PARAMETERS})
    shell = get_ipython()
    at_start = shell.user_ns_hidden if shell else {}
    changes = {
        name: value
        for name in Settings.fields()
        if (value := namespace.get(name)) is not None
        and (name in assigned or value is not at_start.get(name))
    }
    run_name, preset, runs_dir = (_text(namespace, name) for name in _RUN_PARAMETERS)
    if preset is None and run_name in presets().names() and not _exists(run_name, runs_dir):
        preset = run_name
    run = open_run_module.open_run(
        run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes
    )
    _show(f"<b>Run</b> {folder_link(run.path)}")
    settings = table_html(tables.settings_table(run))
    _show(f"<details><summary>All settings</summary>{settings}</details>")
    return run


def open_study(namespace: dict[str, Any]) -> StudyFolder:
    """Open the study that a notebook's parameters name, and show its definition.

    Arguments and errors are those of `open_run`.
    """
    _check_parameters(namespace, valid=_STUDY_PARAMETERS)
    study, name, runs_dir = (_text(namespace, n) for n in ("study", "name", "runs_dir"))
    if study is None:
        raise UsageError(f"study: name one of {', '.join(studies().names())}, or a YAML file")
    folder = StudyFolder.open(study, runs_dir=runs_dir, name=name)
    _show(f"<b>Study</b> {folder_link(folder.path)}")
    definition = html.escape(write_yaml(folder.study.plain()))
    _show(f"<details><summary>Definition</summary><pre>{definition}</pre></details>")
    return folder


def check_data(run: Run) -> None:
    """Show what is wrong with the images of a run's own folder, and what is advised."""
    settings = run.settings
    if settings.dataset != "folder":
        _show(f"{settings.dataset} is a published dataset; only folders of one's own are checked")
        return
    found = check_folder(DatasetConfig.of(settings))
    _show(table_html(pd.DataFrame(found.class_rows())))
    items = "".join(f"<li>{html.escape(text)}</li>" for text in found.sentences())
    _show(f"<ul>{items}</ul>")


def plan(place: Run | StudyFolder, stage: str = "", workers: int | None = None) -> None:
    """Show what is done and what is left of a stage or a study, and what that takes.

    A few real steps of a run's stage are timed; `workers` are a study's parallel runs, one per core
    where None.
    """
    if isinstance(place, StudyFolder):
        found = plan_table(plan_values(place, workers))
    else:
        found = tables.plan_table(pipeline.plan(place, stage, measure=True))
    _show(table_html(found))


def run_stage(run: Run, *stages: str) -> None:
    """Do what is left of stages, by default all; call it again after any interruption."""
    for stage in stages or pipeline.STAGES:
        _run_stage(run, stage)


def _run_stage(run: Run, stage: str) -> None:
    """Do what is left of a stage, with a progress bar."""
    output, begin, drawn = display(HTML(""), display_id=True), time.monotonic(), 0.0

    def draw(share: float, unit: str) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= 1.0:
            drawn = now
            label = html.escape(f"{stage} {share:.0%}, {now - begin:.0f} s {unit}")
            bar = f"<progress value='{share:.3f}' max='1' aria-label='{stage}' style='width:20em'>"
            output.update(HTML(f"{bar}</progress> {label}"))

    units = len(pipeline.stage_units(run, stage))
    progress = StageProgress(units, draw) if run.settings.progress else None
    outcome = pipeline.execute(run, stage, progress)
    output.update(HTML(""))
    _show(f"<b>{stage}</b>: {outcome}")


def run_study(study: StudyFolder, workers: int | None = None) -> StudyFolder:
    """Do what is left of a study, a line per finished run, and return it with its results."""
    output = display(HTML(""), display_id=True)
    lines: list[str] = []

    def show_line(line: str) -> None:
        lines.append(line)
        output.update(HTML(f"<pre>{html.escape(chr(10).join(lines[-8:]))}</pre>"))

    execute_study(study, workers=workers, log=show_line)
    return study.reload()


def check(run: Run, *stages: str) -> None:
    """Check that stages, by default all, are complete and undamaged.

    Raises:
        PrismError: A stage is not complete, or is damaged.
    """
    for stage in stages or pipeline.STAGES:
        found = pipeline.check(run, stage)
        _show(f"<b>{stage}</b>: all {len(found.states)} units are complete and undamaged")


def table(place: Run | StudyFolder, name: str, **options: Any) -> None:
    """Show a result of `viz.results` or `viz.study_report` as a table with a note.

    Options are the result's own, such as `network`. Where one is a `Choice`, the outputs follow it.
    """
    _show_live(name, lambda **own: [_numbers(place, _result(place, name, own))], options)


def figure(place: Run | StudyFolder, name: str, **options: Any) -> None:
    """Show a result as a figure and a table, see `table`, and save both in `figures/`."""

    def draw(**own: Any) -> list[Bundle]:
        result = _result(place, name, own)
        if result.figure is None:
            return [{}, _numbers(place, result)]
        saved = _saved(place, save_figure, name, result.figure, result.table)
        return [figure_bundle(result.figure, name), _numbers(place, result, saved)]

    _show_live(name, draw, options)


def pictures(run: Run, name: str, methods: Sequence[str] | None = None, **options: Any) -> None:
    """Show a contact sheet per method, and save it in `figures/`.

    Args:
        run: The run.
        name: `images`, `views` or `near_duplicates`.
        methods: The methods; where None all, and the real images, which have no views.
        options: The sheet's options: `epoch` of the views, `network` of the near-duplicates.
    """
    titles = tables.method_titles(run)
    sheet = _named(RUN_PICTURES, name, "picture")

    def draw(method: str, **own: Any) -> list[Bundle]:
        picture, title = sheet(run, method, **own), f"<b>{html.escape(titles[method])}</b>"
        if picture is None:
            return [_html(f"{title}: not defined")]
        alt, network = f"{name} of {titles[method]}", own.get("network", "")
        image = sheet_html(run, method, picture, alt, network=network)
        saved = _saved(run, save_picture, f"{name}_{method}", picture)
        return [_html(f"{title}{image}<script>{inspector_script()}</script>{saved}")]

    for method in methods or titles:
        _show_live(f"{name}_{method}", partial(draw, method), options)


def report(place: Run | StudyFolder) -> None:
    """Write the page with all results of a run or a study, and link to it."""
    page = write_study_page(place) if isinstance(place, StudyFolder) else write_report(place)
    _show(f"Report: {file_link(place.path / page, page)}")


class Choice(KeyboardBox):
    """A labelled dropdown; `value` is the chosen option, the default until touched.

    Attributes:
        followers: What draws the outputs that follow it anew, by the outputs' name.
    """

    def __init__(self, label: str, options: Sequence[Any], value: Any) -> None:
        self._dropdown = dropdown(label, options, value)
        self.followers: dict[str, Callable[[], None]] = {}
        self._dropdown.observe(lambda _: self._call_followers(), names="value")
        super().__init__([self._dropdown])

    @property
    def value(self) -> Any:
        """The chosen option."""
        return self._dropdown.value

    def _call_followers(self) -> None:
        for redraw in self.followers.values():
            redraw()


def choose(run: Run, what: str) -> Choice:
    """Return a dropdown for an option of results.

    That is `student`, `method`, `baseline`, `network` (of features), `measure`, or `class`, of
    those that `gradients` and `growth` show.
    """
    titles = tables.method_titles(run)
    methods = [(titles[name], name) for name in run.settings.methods]
    students, networks = run.settings.students, run.settings.feature_networks_used
    known: dict[str, tuple[str, Sequence[Any], Any]] = {
        "student": ("Student", students or ("none",), students[0] if students else "none"),
        "method": ("Images of", methods, methods[0][1]),
        "baseline": ("Baseline", methods, tables.default_baseline(run.settings.methods)),
        "network": ("Features", networks, networks[0]),
        "class": ("Class", _walked_classes(run), None),
        "measure": ("Measure", [(m.title, m.name) for m in metrics_of("class")], "cosine"),
    }
    if what not in known:
        raise UsageError(f"nothing to choose is called {what!r}; {suggest(what, known)}")
    return Choice(*known[what])


def _walked_classes(run: Run) -> list[tuple[str, int]]:
    infos = open_dataset(run.settings).classes
    return [(class_label(infos[c]), c) for c in walked_classes(run)]


def _show_live(name: str, draw: Callable[..., list[Bundle]], options: dict[str, Any]) -> None:
    """Display what `draw` returns for some options, and again where a `Choice` of them changes.

    `draw` always returns as many bundles; empty ones are displayed only to be replaced.
    """
    choices = [option for option in options.values() if isinstance(option, Choice)]

    def drawn() -> list[Bundle]:
        return draw(**{n: o.value if isinstance(o, Choice) else o for n, o in options.items()})

    handles = [
        display(bundle or _html(""), raw=True, display_id=True)
        for bundle in drawn()
        if bundle or choices
    ]

    def redraw() -> None:
        for handle, bundle in zip(handles, drawn(), strict=True):
            handle.update(_html(""), raw=True)  # JupyterLab draws no figure in place of another
            handle.update(bundle or _html(""), raw=True)

    for choice in choices:
        choice.followers[name] = redraw


def _result(place: Run | StudyFolder, name: str, options: dict[str, Any]) -> Result:
    known = STUDY_RESULTS if isinstance(place, StudyFolder) else RUN_RESULTS
    return _named(known, name, "result")(place, **options)


def _named(functions: Mapping[str, Callable[..., Any]], name: str, kind: str) -> Callable[..., Any]:
    if name not in functions:
        raise UsageError(f"no {kind} is called {name!r}; {suggest(name, functions)}")
    return functions[name]


def _show(text: str) -> None:
    display(HTML(text))


def _html(text: str) -> Bundle:
    return {"text/html": text, "text/plain": ""}


def _numbers(place: Run | StudyFolder, result: Result, saved: str = "") -> Bundle:
    """Return the HTML of a result's table, its note, and where the result is saved."""
    labels = study_labels(place) if isinstance(place, StudyFolder) else run_labels(place)
    shown = table_html(result.table, labels) if len(result.table) else ""
    note = f"<p>{html.escape(result.note)}</p>" if result.note else ""
    return _html(f"{shown}{note}{saved}") if shown or note or saved else {}


def _saved(place: Run | StudyFolder, save: Callable[..., str], *content: Any) -> str:
    """Save a figure and return where as HTML; in a read-only folder, that it is not saved."""
    folder = place.path / "figures"
    if os.access(folder if folder.exists() else place.path, os.W_OK):
        return saved_html(place.path, save(place.path, *content))
    return "not saved: the folder is read-only"


def _text(namespace: dict[str, Any], name: str) -> str | None:
    value = namespace.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name}: text is needed, got {value!r}; put it in quotes")
    return value


def _exists(run_name: str | None, runs_dir: str | None) -> bool:
    try:
        open_run_module.load_run(run_name=run_name, runs_dir=runs_dir)
    except UsageError:
        return False
    return True


def _check_parameters(namespace: dict[str, Any], *, valid: Collection[str]) -> set[str]:
    """Check and return the names that cells of parameters assign: papermill only warns of unknown.

    The cells that it injects begin with "# Parameters", and so do the notebooks' own.
    """
    assigned = set()
    for source in namespace.get("In", []):
        if source.startswith("# Parameters"):
            names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
            for name in [node.id for node in names if isinstance(node.ctx, ast.Store)]:
                if name not in valid:
                    raise UsageError(f"unknown parameter {name!r}; {suggest(name, valid)}")
                assigned.add(name)
    return assigned
