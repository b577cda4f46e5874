"""Options that several commands of `prism-nb` share."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prism_nb import __version__
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.text import format_duration
from prism_nb.data.registry import DatasetSizes

if TYPE_CHECKING:
    from prism_nb.core.run import Run
    from prism_nb.core.settings import Settings
    from prism_nb.execution.pipeline import StagePlan


runs_dir_option = click.option(
    "--runs-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the runs [default: $PRISM_RUNS, else data/runs of the clone].",
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting; repeatable.",
)


@click.command("catalogue")
@click.argument("words", nargs=-1)
@click.option("--family", default="", help="Of one family only, e.g. resnet.")
@click.option("--gflop", type=click.FloatRange(min=0), help="At most so many per image, forward.")
def catalogue_command(words: tuple[str, ...], family: str, gflop: float | None) -> None:
    """List the networks with batch norm whose names hold all WORDS; what a pool can be made of."""
    from prism_nb.models.catalog import filtered, read_catalogue

    entries = read_catalogue()
    found = filtered(entries, words=" ".join(words), family=family, gflop=gflop)
    click.echo(
        f"{'network':<40}{'family':<16}{'BN layers':>10}{'parameters':>13}{'GFLOP':>9}"
        f"{'pixels':>8}{'top-1 %':>9}  weights"
    )
    for e in found:
        accuracy = "" if e.accuracy is None else f"{e.accuracy:.1f}"
        click.echo(
            f"{e.name:<40}{e.family:<16}{e.bn_layers:>10}{e.parameters / 1e6:>11.1f} M"
            f"{e.flops / 1e9:>9.2f}{e.input_size:>8}{accuracy:>9}  {' '.join(e.weights)}"
        )
    click.echo(f"\n{len(found)} of {len(entries)} networks with batch norm")


_TERA = 1e12


def echo_counts(run: Run, *, at: float | None, size: str | None) -> None:
    """Print what a run takes in operations, files and bytes.

    Args:
        run: The run, or one that could be begun.
        at: 10^12 operations per second at which hours are given; None: no hours.
        size: Numbers that stand in for the dataset, see `parse_size`.
    """
    from prism_nb.data.registry import dataset_sizes
    from prism_nb.execution.cost import count_table, estimate_run
    from prism_nb.execution.forecast import NetworkCosts

    dataset = dataset_sizes(run.settings, parse_size(size) if size else None)
    table = count_table(
        estimate_run(run, NetworkCosts(dataset)), rate=None if at is None else at * _TERA
    )
    train, val = (len(dataset.labels(split)) for split in ("train", "val"))
    click.echo(
        f"{dataset.name}: {len(dataset.classes):,} classes, {train:,} training and {val:,} "
        f"held-out images, {dataset.image_size} px\n\n{table.to_string(index=False)}\n"
    )
    if at is not None:
        click.echo(f"hours at an assumed {at:g} TFLOP/s, which nothing here has measured")
    click.echo(
        "counted, not measured: FLOP of convolutions and matrix products alone; GPU GB of all "
        "tensors at once in the largest step, eager, in float32"
    )


def check_images(settings: Settings) -> None:
    """Check that a plan which measures has images to measure with.

    Raises:
        UsageError: There are none, and what plans without them.
    """
    from prism_nb.data.registry import dataset_sizes, open_dataset

    try:
        open_dataset(settings)
    except UsageError as error:
        dataset_sizes(settings)  # raises the same where nothing is known of them either
        raise UsageError(
            f"{error}; or add --count, which needs no images: it counts operations, files, bytes "
            "and memory"
        ) from None


def split_cache_bytes(run: Run, plans: Sequence[StagePlan]) -> list[StagePlan]:
    """Return plans of which each counts what no earlier one has added to the cache."""
    from prism_nb.execution.forecast import cache_bytes_per_stage

    shares = cache_bytes_per_stage(run, [plan.left for plan in plans])
    return [replace(plan, cache_bytes=share) for plan, share in zip(plans, shares, strict=True)]


def format_disk(plans: Sequence[StagePlan]) -> str:
    """Say what plans of all stages, with shares of the cache, write in all."""
    from prism_nb.core.text import format_bytes

    cache = sum(plan.cache_bytes for plan in plans)
    total = format_bytes(cache + sum(plan.disk_bytes for plan in plans))
    return f"{total} to be written at most, {format_bytes(cache)} of it in the cache"


def petaflop_left(run: Run, plans: Sequence[StagePlan]) -> list[float]:
    """Return the 10^15 operations of the units of each stage that are still to be done."""
    from prism_nb.data.registry import open_dataset
    from prism_nb.execution.cost import flop_of
    from prism_nb.execution.forecast import NetworkCosts

    arithmetic, found = NetworkCosts(open_dataset(run.settings)), []
    for plan in plans:
        found.append(round(flop_of(run, arithmetic, plan.stage, plan.left) / 1e15, 3))
    return found


def parse_size(text: str) -> DatasetSizes:
    """Read `classes,training images,held-out images`.

    Raises:
        UsageError: It is something else.
    """
    from prism_nb.data.registry import DatasetSizes

    parts = text.replace("_", "").split(",")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise UsageError(
            f"--size {text!r}: give classes, training and held-out images, e.g. 1000,1281167,50000"
        )
    return DatasetSizes(*map(int, parts))


@click.command("methods")
def methods_command() -> None:
    """List the recipes: what each changes of the published PRISM, and what it does not have."""
    from prism_nb.core.recipe import load_recipe, recipe_differences, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        click.echo(f"{name:<16} {recipe.title}; {recipe.paper}")
        values = recipe_differences(recipe, load_recipe("prism"))
        if values:
            changed = ", ".join(f"{key} {value}" for key, value in values.items())
            click.echo(f"{'':<16} {changed}")
        if recipe.deviations:
            click.echo(f"{'':<16} lacks: {recipe.deviations}")
    click.echo("\nprism itself, from which the others differ:")
    prism = load_recipe("prism")
    for key, field in type(prism).model_fields.items():
        if key not in {"title", "paper", "deviations"}:
            click.echo(f"{'':<16} {key} {getattr(prism, key)}: {field.description}")


@click.command("protocols")
def protocols_command() -> None:
    """List the protocols: by what settings the papers label images and train students."""
    from prism_nb.core.presets import protocol_metadata, protocol_names, protocol_values

    for name in protocol_names():
        words, values = protocol_metadata(name), protocol_values(name)
        click.echo(f"{name:<8} {words['title']}; {words['paper']}")
        click.echo(f"{'':<8} {', '.join(f'{key} {value}' for key, value in values.items())}")


_LAYOUTS = ("published", "imagefolder", "archive")


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--run", "run_name", required=True, help="Run that the images join, or begin.")
@click.option("--preset", help="Settings of a new run; one that exists keeps its own.")
@click.option(
    "--as", "method", default="imported", show_default=True, help="What the method is called."
)
@click.option("--resize", is_flag=True, help="Fit images of another size than image_size.")
@set_option
@runs_dir_option
def import_command(
    folder: Path,
    run_name: str,
    preset: str | None,
    method: str,
    resize: bool,
    assignments: tuple[str, ...],
    runs_dir: Path | None,
) -> None:
    """Make the images of FOLDER (or a zip archive) a method of a run; `run` then continues it."""
    from prism_nb.core.config import parse_assignments
    from prism_nb.execution.exchange import import_images

    run, outcome = import_images(
        folder,
        run_name=run_name,
        preset=preset,
        method=method,
        runs_dir=runs_dir,
        changes=parse_assignments(assignments),
        resize=resize,
    )
    settings = run.settings
    click.echo(f"run      {run.path}")
    click.echo(f"method   {method}: {settings.ipc} images per class of {settings.dataset}")
    click.echo(f"units    {outcome.made} made, {outcome.kept} were there already")
    click.echo(f"next     prism-nb run --run {run_name}")


@click.command("export")
@click.argument("run_name")
@click.argument("method")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(_LAYOUTS),
    default="archive",
    show_default=True,
    help="published: new000/class000_id000; imagefolder: a folder per class; archive: one .zip.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(("jpeg", "png")),
    help="JPEG changes the images, PNG does not [default: jpeg in the published layout, else png].",
)
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG [default: 95].")
@runs_dir_option
def export_command(
    run_name: str,
    method: str,
    dest: Path,
    layout: str,
    kind: str | None,
    quality: int | None,
    runs_dir: Path | None,
) -> None:
    """Write the images of METHOD in RUN_NAME to DEST, for others to use."""
    from prism_nb.execution import open_run as open_run_module
    from prism_nb.execution.exchange import export_set

    found = open_run_module.load_run(run_name=run_name, runs_dir=runs_dir)
    done = export_set(found, method, dest, layout=layout, kind=kind, quality=quality)
    click.echo(f"{done.images} images in {dest}, {done.coding}")
    click.echo(f"content of the run's images: {done.content}")


@click.command("stage")
@click.argument("run_name", metavar="RUN")
@click.argument("stage")
@runs_dir_option
def stage_command(run_name: str, stage: str, runs_dir: Path | None) -> None:
    """Do what is left of one STAGE of RUN: teachers, synthesis, diversity, labels or evaluation.

    Ctrl-C stops it; the same command continues it. Notebook 02's monitor starts it this way.
    """
    from prism_nb.execution import open_run as open_run_module
    from prism_nb.execution import pipeline
    from prism_nb.execution.progress import progress_bar

    # Whatever starts it may have told its children to ignore Ctrl-C, by which it is to be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = open_run_module.open_run(run_name=run_name, runs_dir=runs_dir)
    with progress_bar(run, stage, len(pipeline.stage_units(run, stage))):
        outcome = pipeline.execute(run, stage)
    click.echo(
        f"{stage}: {outcome.made} units made, {outcome.kept} were there already, "
        f"{outcome.seconds:.1f} s"
    )


@click.command("study")
@click.argument("study")
@click.option("--name", help="Name of the study's folder [default: the study's].")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Runs side by side, one CPU thread each [default: one per core, at most 8].",
)
@click.option("--plan", "only_plan", is_flag=True, help="Show what is left, and write nothing.")
@runs_dir_option
def study_command(
    study: str, name: str | None, workers: int | None, only_plan: bool, runs_dir: Path | None
) -> None:
    """Carry out STUDY: methods x scenarios x replicates; the same command continues it."""
    from prism_nb.execution.study import (
        StudyFolder,
        check_study,
        default_workers,
        execute_study,
        plan_table,
    )

    begin = time.monotonic()
    folder = StudyFolder.open(study, runs_dir=runs_dir, name=name)
    side_by_side = workers or default_workers()
    click.echo(f"study {folder.path}\n\n{plan_table(folder, side_by_side).to_string()}\n")
    if only_plan:
        check_study(folder)
        return
    execute_study(folder, workers=side_by_side, say=click.echo)
    folder = folder.fresh()
    from prism_nb.headless import STUDY, execute_study_notebook
    from prism_nb.viz.study_report import answer, study_legend

    execute_study_notebook(folder, study)
    found = answer(folder)
    table = found.table.rename(index=study_legend(folder).titles)
    click.echo(f"\n{table.to_string()}\n\n{found.note}")
    click.echo(f"\npage       {folder.path / 'study.html'}")
    click.echo(f"notebook   {folder.path / 'notebooks' / STUDY}.ipynb")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


# Everything heavier than click is imported inside the commands, so that --help answers at once.

_recipes = click.option(
    "--recipe",
    "recipe_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A recipe of your own (YAML) to run beside the preset's methods; repeatable.",
)
_run_name = click.option("--run", "run_name", help="Name of the run [default: the preset's].")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prism-nb")
def cli() -> None:
    """Distil a dataset with PRISM and its rivals, from a preset to an honest table."""


cli.add_command(import_command)
cli.add_command(export_command)
cli.add_command(stage_command)
cli.add_command(catalogue_command)
cli.add_command(study_command)
cli.add_command(methods_command)
cli.add_command(protocols_command)


@cli.command()
@click.argument("preset", required=False)
@_run_name
@set_option
@_recipes
@runs_dir_option
@click.option("--redo-notebooks", is_flag=True, help="Execute notebooks of finished stages again.")
def run(
    preset: str | None,
    run_name: str | None,
    assignments: tuple[str, ...],
    recipe_files: tuple[Path, ...],
    runs_dir: Path | None,
    redo_notebooks: bool,
) -> None:
    """Execute all notebooks of PRESET headlessly; the same command continues an interrupted run.

    Without a PRESET, --run continues a run with the settings that it has.
    """
    from prism_nb.execution import open_run as open_run_module
    from prism_nb.execution.cost import check_disk_space
    from prism_nb.headless import notebook_path, run_notebooks

    begin = time.monotonic()
    changes = _changes(preset, run_name, assignments, recipe_files)
    opened = open_run_module.open_run(
        run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes
    )
    click.echo(f"run {opened.path}")
    check_disk_space(opened)
    with _saying_what_goes_on(opened):
        run_notebooks(opened, say=click.echo, redo_notebooks=redo_notebooks)
    from prism_nb.viz import tables

    summary = tables.summary_table(opened).rename(index=tables.method_titles(opened))
    click.echo(f"\n{summary.to_string()}\n")
    click.echo(f"report     {opened.path / 'figures' / 'report.html'}")
    click.echo(f"notebooks  {notebook_path(opened, '06_report').parent}")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command()
@click.argument("preset", required=False)
@_run_name
@set_option
@_recipes
@runs_dir_option
@click.option("--quick", is_flag=True, help="Take no steps to measure time and memory.")
@click.option(
    "--count", is_flag=True, help="Counts alone: FLOP, files, bytes; needs no data, no weights."
)
@click.option("--at", type=click.FloatRange(0, min_open=True), help="Assumed TFLOP/s (--count).")
@click.option("--size", help="Classes, training and held-out images of a dataset (--count).")
def plan(
    preset: str | None,
    run_name: str | None,
    assignments: tuple[str, ...],
    recipe_files: tuple[Path, ...],
    runs_dir: Path | None,
    quick: bool,
    count: bool,
    at: float | None,
    size: str | None,
) -> None:
    """Show what `run` would do and take, from a few real steps on this device; write nothing."""
    from prism_nb.execution import open_run as open_run_module

    pass

    found = open_run_module.load_run(
        run_name=run_name,
        preset=preset,
        runs_dir=runs_dir,
        changes=_changes(preset, run_name, assignments, recipe_files),
    )
    if count:
        echo_counts(found, at=at, size=size)
        return
    if at or size:
        raise click.UsageError("--at and --size go with --count")
    check_images(found.settings)
    found.check_settings()
    from prism_nb.execution.open_run import preflight

    preflight(found.settings, found)
    _print_plans(found, measure=not quick, for_all=True)


@cli.command()
@click.argument("run_name")
@runs_dir_option
def status(run_name: str, runs_dir: Path | None) -> None:
    """Show what a run has done so far; works while it is going on."""
    from prism_nb.execution import open_run as open_run_module
    from prism_nb.execution import pipeline

    found = open_run_module.load_run(run_name=run_name, runs_dir=runs_dir)
    _print_plans(found)
    for stage in pipeline.STAGES:
        for last in deque(found.events.read(stage), maxlen=1):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.get("time", 0)))
            click.echo(f"{stage:<11} last event {at}: {last.get('event')} {last.get('unit', '')}")


@cli.command()
@click.argument("run_name")
@runs_dir_option
@click.option("--clean", is_flag=True, help="Remove what interrupted writes have left.")
def verify(run_name: str, runs_dir: Path | None, clean: bool) -> None:
    """Check a run's settings, hashes, class order and labels; exit 1 if anything is damaged."""
    from prism_nb.execution import open_run as open_run_module
    from prism_nb.execution import verify

    found = open_run_module.load_run(run_name=run_name, runs_dir=runs_dir)
    if clean:
        removed = verify.clean(found)
        click.echo(f"{removed} file{'s' * (removed != 1)} of interrupted work removed")
    verdict = verify.verify_run(found)
    for stage, (whole, count) in verdict.whole.items():
        click.echo(f"{stage:<11} {whole} of {count} units complete and whole")
    for each in verdict.findings:
        click.echo(f"{each.kind}: {each.where}: {each.what}\n  {each.remedy}")
    if verdict.damages:
        raise PrismError(
            f"{verdict.damages} finding{'s' * (verdict.damages > 1)} of damage; what is not named "
            "above can be trusted"
        )


@contextmanager
def _saying_what_goes_on(run: Run) -> Iterator[None]:
    """Have an interruption tell of jobs that do not end with it."""
    try:
        yield
    except KeyboardInterrupt:
        if run.settings.backend != "slurm":
            raise
        from prism_nb.execution.slurm_backend import running_jobs_message

        raise KeyboardInterrupt(running_jobs_message(run)) from None


def _changes(
    preset: str | None,
    run_name: str | None,
    assignments: tuple[str, ...],
    recipe_files: tuple[Path, ...],
) -> dict[str, Any]:
    """Return what a command changes of a preset, or of a run where none is named."""
    from prism_nb.core.config import add_recipes, parse_assignments

    changes = parse_assignments(assignments)
    if preset is not None:
        return add_recipes(preset, changes, recipe_files)
    if run_name is None:
        raise click.UsageError("Missing argument 'PRESET', or --run with a run that exists")
    if recipe_files:
        raise click.UsageError("--recipe adds to the methods of a preset; name one")
    return changes


def _print_plans(found: Run, *, measure: bool = False, for_all: bool = False) -> None:
    """Show a row for each stage; `for_all` with what the stages take together, once each."""
    import pandas as pd

    from prism_nb.execution import pipeline
    from prism_nb.viz import tables

    plans = [pipeline.plan(found, s, deep=False, measure=measure) for s in pipeline.STAGES]
    if for_all:
        pass

        plans = split_cache_bytes(found, plans)
    table = pd.concat([tables.plan_table(each) for each in plans]).fillna(0)
    counts = [name for name in table.columns if "units" in name or name == "to do"]
    table[counts] = table[counts].astype(int)
    if for_all:
        table["PFLOP"] = petaflop_left(found, plans)
    click.echo(f"run {found.path}\n\n{table.to_string()}\n")
    if for_all:
        click.echo(format_disk(plans))
    known = [each.seconds_left for each in plans if each.seconds_left is not None]
    unknown = [each.stage for each in plans if each.seconds_left is None and each.missing]
    if any(known):
        beside = " and ".join(["notebooks", *unknown])
        click.echo(f"{format_duration(sum(known))} to the end, {beside} not counted\n")


def main() -> None:
    """Run the command; whatever goes wrong ends with one message and no stack trace."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        cli(standalone_mode=False)
    except PrismError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}; see prism-nb --help", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        goes_on = str(stop) or "the same command continues where it stopped"
        click.echo(f"\ninterrupted; {goes_on}", err=True)
        sys.exit(130)
    except (OSError, MemoryError) as error:
        what = error.strerror if isinstance(error, OSError) else "not enough memory"
        click.echo(f"error: {what or error}; nothing that was finished is lost", err=True)
        sys.exit(1)
    except Exception as error:
        click.echo(
            f"error: {type(error).__name__}: {error}; this is a defect of the kit, please report "
            f"it{_with_trace(traceback.format_exc())}. Finished work is kept",
            err=True,
        )
        sys.exit(1)


def _with_trace(trace: str) -> str:
    """Keep a stack trace in a new file of the user's own, and return where, in words."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="prism-nb-error-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(trace)
    except OSError:
        return ""
    return f" with {file.name}"


def _as_interrupt(*_: object) -> None:
    """Let a request to stop end like Ctrl-C: with a message, and without an orphaned kernel."""
    raise KeyboardInterrupt
