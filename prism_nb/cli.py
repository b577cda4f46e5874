"""The command `prism-nb`."""

# Everything heavier than click is imported inside the commands, so that --help answers at once.

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prism_nb import __version__
from prism_nb.core.errors import PrismError, UsageError

if TYPE_CHECKING:
    from prism_nb.core.run import Run
    from prism_nb.data.registry import DatasetSizes
    from prism_nb.execution.pipeline import StagePlan

_Command = TypeVar("_Command", bound=Callable[..., None])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prism-nb")
def cli() -> None:
    """Distil a dataset with PRISM and other methods, and compare the results."""


_runs_dir = click.option(
    "--runs-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the runs [default: $PRISM_RUNS, else data/runs of the clone].",
)
_set = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting; repeatable.",
)


def _run_options(command: _Command) -> _Command:
    """Add the options that choose a run and its settings."""
    recipe = click.option(
        "--recipe",
        "recipe_files",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A recipe of your own (YAML) to add to the preset's methods; repeatable.",
    )
    name = click.option("--run", "run_name", help="Name of the run [default: the preset's].")
    return click.argument("preset", required=False)(name(_set(recipe(_runs_dir(command)))))


def _run_arguments(
    preset: str | None,
    run_name: str | None,
    assignments: tuple[str, ...],
    recipe_files: tuple[Path, ...],
    runs_dir: Path | None,
) -> dict[str, Any]:
    """Return the arguments of `open_run` or `load_run` that the run options give."""
    from prism_nb.core.config import add_recipes, parse_assignments

    changes = parse_assignments(assignments)
    if preset is not None:
        changes = add_recipes(preset, changes, recipe_files)
    elif run_name is None:
        raise click.UsageError("Missing argument 'PRESET', or --run with a run that exists")
    elif recipe_files:
        raise click.UsageError("--recipe adds to the methods of a preset; name one")
    return {"run_name": run_name, "preset": preset, "runs_dir": runs_dir, "changes": changes}


@cli.command()
@_run_options
@click.option("--redo-notebooks", is_flag=True, help="Execute notebooks of finished stages again.")
def run(*, redo_notebooks: bool, **options: Any) -> None:
    """Execute all notebooks of PRESET headlessly; the same command continues an interrupted run.

    Without a PRESET, --run continues a run with the settings that it has.
    """
    from prism_nb.execution import disk_space, open_run
    from prism_nb.headless import notebook_path, run_notebooks

    begin = time.monotonic()
    opened = open_run.open_run(**_run_arguments(**options))
    click.echo(f"run {opened.path}")
    plans = _plans(opened)
    disk_space.check_disk_space(
        opened,
        {plan.stage: plan.disk_bytes for plan in plans},
        disk_space.cache_bytes(opened, [unit for plan in plans for unit in plan.left]),
    )
    try:
        run_notebooks(opened, log=click.echo, redo_notebooks=redo_notebooks)
    except KeyboardInterrupt:
        if opened.settings.backend != "slurm":
            raise
        from prism_nb.execution.slurm_backend import running_jobs_message

        raise KeyboardInterrupt(running_jobs_message(opened)) from None
    from prism_nb.viz import tables

    summary = tables.summary_table(opened).rename(index=tables.method_titles(opened))
    click.echo(f"\n{summary.to_string()}\n")
    click.echo(f"report     {opened.path / 'figures' / 'report.html'}")
    click.echo(f"notebooks  {notebook_path(opened, '06_report').parent}")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command()
@_run_options
@click.option("--quick", is_flag=True, help="Take no steps to measure time and memory.")
@click.option(
    "--count", is_flag=True, help="Count FLOP, files and bytes only; needs no data, no weights."
)
@click.option("--at", type=click.FloatRange(0, min_open=True), help="Assumed TFLOP/s (--count).")
@click.option("--size", help="Classes, training and held-out images of a dataset (--count).")
def plan(*, quick: bool, count: bool, at: float | None, size: str | None, **options: Any) -> None:
    """Show what `run` would do and take, from a few real steps on this device; write nothing."""
    from prism_nb.execution import open_run

    found = open_run.load_run(**_run_arguments(**options))
    if count:
        _echo_counts(found, at, size)
        return
    if at or size:
        raise click.UsageError("--at and --size go with --count")
    _require_images(found)
    found.check_settings()
    open_run.preflight(found.settings, found)
    plans = _plans(found, measure=not quick)
    _echo_plans(found, plans)
    _echo_totals(found, plans)


@cli.command()
@click.argument("run_name")
@_runs_dir
def status(run_name: str, runs_dir: Path | None) -> None:
    """Show what a run has done so far, also while it is running."""
    from prism_nb.execution import open_run, pipeline

    found = open_run.load_run(run_name=run_name, runs_dir=runs_dir)
    _echo_plans(found, _plans(found))
    for stage in pipeline.STAGES:
        for last in deque(found.events.read(stage), maxlen=1):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.get("time", 0)))
            click.echo(f"{stage:<11} last event {at}: {last.get('event')} {last.get('unit', '')}")


@cli.command()
@click.argument("run_name")
@_runs_dir
@click.option("--clean", is_flag=True, help="Remove what interrupted writes have left.")
def verify(run_name: str, runs_dir: Path | None, clean: bool) -> None:
    """Check a run's settings, hashes, class order and labels; exit 1 if anything is damaged."""
    from prism_nb.execution import open_run, verify

    found = open_run.load_run(run_name=run_name, runs_dir=runs_dir)
    if clean:
        removed = verify.clean(found)
        click.echo(f"{removed} file{'s' * (removed != 1)} of interrupted work removed")
    report = verify.verify_run(found)
    for stage, (intact, count) in report.intact.items():
        click.echo(f"{stage:<11} {intact} of {count} units complete and undamaged")
    for each in report.findings:
        click.echo(f"{each.kind}: {each.where}: {each.what}\n  {each.remedy}")
    if report.damages:
        raise PrismError(
            f"{report.damages} finding{'s' * (report.damages > 1)} of damage; what is not named "
            "above can be trusted"
        )


@cli.command()
@click.argument("run_name", metavar="RUN")
@click.argument("stage")
@_runs_dir
def stage(run_name: str, stage: str, runs_dir: Path | None) -> None:
    """Do what is left of one STAGE of RUN: squeeze, synthesis, diversity, relabel or evaluation.

    Ctrl-C stops it; the same command continues it. Notebook 02's monitor starts it this way.
    """
    from prism_nb.execution import open_run, pipeline
    from prism_nb.execution.progress import progress_bar

    # A parent process may have its children ignore Ctrl-C, which is how this one is stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = open_run.open_run(run_name=run_name, runs_dir=runs_dir)
    with progress_bar(found, stage, len(pipeline.stage_units(found, stage))):
        outcome = pipeline.execute(found, stage)
    click.echo(
        f"{stage}: {outcome.made} units made, {outcome.skipped} were there already, "
        f"{outcome.seconds:.1f} s"
    )


@cli.command()
@click.argument("study")
@click.option("--name", help="Name of the study's folder [default: the study's].")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Runs in parallel, one CPU thread each [default: one per core, at most 8].",
)
@click.option("--plan", "only_plan", is_flag=True, help="Show what is left, and write nothing.")
@_runs_dir
def study(
    study: str, name: str | None, workers: int | None, only_plan: bool, runs_dir: Path | None
) -> None:
    """Carry out STUDY: methods x scenarios x replicates; the same command continues it."""
    from prism_nb.execution import study as studies

    begin = time.monotonic()
    folder = studies.StudyFolder.open(study, runs_dir=runs_dir, name=name)
    workers = workers or studies.default_workers()
    click.echo(f"study {folder.path}\n\n{studies.plan_table(folder, workers).to_string()}\n")
    if only_plan:
        studies.check_study(folder)
        return
    studies.execute_study(folder, workers=workers, log=click.echo)
    from prism_nb.headless import STUDY, execute_study_notebook
    from prism_nb.viz.study_report import answer, study_legend

    folder = folder.reload()
    execute_study_notebook(folder, study)
    found = answer(folder)
    table = found.table.rename(index=study_legend(folder).titles)
    click.echo(f"\n{table.to_string()}\n\n{found.note}")
    click.echo(f"\npage       {folder.path / 'study.html'}")
    click.echo(f"notebook   {folder.path / 'notebooks' / STUDY}.ipynb")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--run", "run_name", required=True, help="Run that the images join, or begin.")
@click.option("--preset", help="Settings of a new run; one that exists keeps its own.")
@click.option("--as", "method", default="imported", show_default=True, help="Name of the method.")
@click.option("--resize", is_flag=True, help="Fit images of another size than image_size.")
@_set
@_runs_dir
def import_command(
    folder: Path, run_name: str, method: str, assignments: tuple[str, ...], **options: Any
) -> None:
    """Make the images of FOLDER (or a zip archive) a method of a run; `run` then continues it."""
    from prism_nb.core.config import parse_assignments
    from prism_nb.execution.exchange import import_images

    changes = parse_assignments(assignments)
    found, outcome = import_images(
        folder, run_name=run_name, method=method, changes=changes, **options
    )
    settings = found.settings
    click.echo(f"run      {found.path}")
    click.echo(f"method   {method}: {settings.ipc} images per class of {settings.dataset}")
    click.echo(f"units    {outcome.made} made, {outcome.skipped} were there already")
    click.echo(f"next     prism-nb run --run {run_name}")


@cli.command("export")
@click.argument("run_name")
@click.argument("method")
@click.argument("dest", type=click.Path(path_type=Path))
@_runs_dir
def export_command(run_name: str, method: str, dest: Path, runs_dir: Path | None) -> None:
    """Write the images and labels of METHOD in RUN_NAME to DEST, a zip archive with a card."""
    from prism_nb.execution import open_run
    from prism_nb.execution.exchange import export_set

    found = open_run.load_run(run_name=run_name, runs_dir=runs_dir)
    content = export_set(found, method, dest)
    click.echo(f"{dest}: images of {method}, content {content}")


@cli.command("methods")
def methods_command() -> None:
    """List the recipes: what each changes of the published PRISM, and what it does not have."""
    from prism_nb.core.recipe import RECIPES, load_recipe, recipe_differences

    prism = load_recipe("prism")
    for name in RECIPES.names():
        recipe = load_recipe(name)
        click.echo(f"{name:<16} {recipe.title}; {recipe.paper}")
        changed = recipe_differences(recipe, prism).items()
        if changed:
            click.echo(" " * 17 + ", ".join(f"{key} {value}" for key, value in changed))
        if recipe.deviations:
            click.echo(" " * 17 + f"lacks: {recipe.deviations}")
    click.echo("\nprism itself, from which the others differ:")
    for key, field in type(prism).model_fields.items():
        if key not in {"title", "paper", "deviations"}:
            click.echo(" " * 17 + f"{key} {getattr(prism, key)}: {field.description}")


@cli.command("protocols")
def protocols_command() -> None:
    """List the protocols: by what settings the papers label images and train students."""
    from prism_nb.core.presets import PROTOCOLS, protocol_metadata, protocol_values

    for name in PROTOCOLS.names():
        about, values = protocol_metadata(name), protocol_values(name).items()
        click.echo(f"{name:<8} {about['title']}; {about['paper']}")
        click.echo(" " * 9 + ", ".join(f"{key} {value}" for key, value in values))


@cli.command("catalogue")
@click.argument("words", nargs=-1)
@click.option("--family", default="", help="Of one family only, e.g. resnet.")
@click.option("--gflop", type=click.FloatRange(min=0), help="At most so many per image, forward.")
def catalogue_command(words: tuple[str, ...], family: str, gflop: float | None) -> None:
    """List the networks with batch norm whose names hold all WORDS; what a pool can be made of."""
    from prism_nb.models import catalog

    entries = catalog.read_catalogue()
    found = catalog.filtered(entries, words=" ".join(words), family=family, gflop=gflop)
    row = "{:<40}{:<16}{:>10}{:>13}{:>9}{:>8}{:>9}  {}"
    names = ("network", "family", "BN layers", "parameters", "GFLOP", "pixels", "top-1 %")
    click.echo(row.format(*names, "weights"))
    for e in found:
        size = f"{e.parameters / 1e6:.1f} M"
        accuracy = "" if e.accuracy is None else f"{e.accuracy:.1f}"
        cells = (
            e.name,
            e.family,
            e.bn_layers,
            size,
            f"{e.flops / 1e9:.2f}",
            e.input_size,
            accuracy,
        )
        click.echo(row.format(*cells, " ".join(e.weights)))
    click.echo(f"\n{len(found)} of {len(entries)} networks with batch norm")


def _plans(run: Run, *, measure: bool = False) -> list[StagePlan]:
    from prism_nb.execution import pipeline

    return [pipeline.plan(run, s, verify_hashes=False, measure=measure) for s in pipeline.STAGES]


def _echo_plans(run: Run, plans: Sequence[StagePlan]) -> None:
    """Print a row per stage, and the time to the end."""
    import pandas as pd

    from prism_nb.core.text import format_duration
    from prism_nb.viz import tables

    table = pd.concat([tables.plan_table(each) for each in plans]).fillna(0)
    table = table.drop(columns="cache", errors="ignore")  # shared by stages: see the total
    counts = [name for name in table.columns if "units" in name or name == "to do"]
    table[counts] = table[counts].astype(int)
    click.echo(f"run {run.path}\n\n{table.to_string()}\n")
    known = [each.seconds_left for each in plans if each.seconds_left is not None]
    unknown = [each.stage for each in plans if each.seconds_left is None and each.missing]
    if any(known):
        excluded = " and ".join(["notebooks", *unknown])
        click.echo(f"{format_duration(sum(known))} to the end, {excluded} not counted\n")


def _echo_totals(run: Run, plans: Sequence[StagePlan]) -> None:
    """Print the operations and bytes of all that is left."""
    from prism_nb.core.text import format_bytes
    from prism_nb.data.registry import open_dataset
    from prism_nb.execution import cost, disk_space

    left = [unit for plan in plans for unit in plan.left]
    counter = cost.StepCounter(run.settings, open_dataset(run.settings))
    cache = disk_space.cache_bytes(run, left)
    total = cache + sum(plan.disk_bytes for plan in plans)
    click.echo(f"{sum(map(counter.unit_flop, left)) / 1e15:.3g} PFLOP")
    click.echo(
        f"{format_bytes(total)} to be written at most, {format_bytes(cache)} of it in the cache"
    )


def _echo_counts(run: Run, at: float | None, size: str | None) -> None:
    """Print the operations, files and bytes of a whole run, which need not exist.

    Args:
        run: The run.
        at: TFLOP/s at which hours are given; None: no hours.
        size: Sizes to use in place of the dataset's, see `_parse_size`.
    """
    from prism_nb.data.registry import dataset_sizes
    from prism_nb.execution import cost, pipeline

    dataset = dataset_sizes(run.settings, _parse_size(size) if size else None)
    units = [u for s in pipeline.STAGES.values() for u in s.units(run, len(dataset.classes))]
    estimates = cost.estimate_run(run, dataset, units)
    table = cost.estimate_table(estimates, rate=None if at is None else at * 1e12)
    train, val = (len(dataset.labels(split)) for split in ("train", "val"))
    click.echo(
        f"{dataset.name}: {len(dataset.classes):,} classes, {train:,} training and {val:,} "
        f"held-out images, {dataset.image_size} px\n\n{table.to_string(index=False)}\n"
    )
    if at is not None:
        click.echo(f"hours at an assumed {at:g} TFLOP/s, which nothing here has measured")
    click.echo(
        "counted, not measured: FLOP of convolutions and matrix products; GPU GB of weights, "
        "optimizer state and activations in the largest step, eager, in float32"
    )


def _parse_size(text: str) -> DatasetSizes:
    """Read `classes,training images,held-out images`."""
    from prism_nb.data.registry import DatasetSizes

    parts = text.replace("_", "").split(",")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise UsageError(
            f"--size {text!r}: give classes, training and held-out images, e.g. 1000,1281167,50000"
        )
    return DatasetSizes(*map(int, parts))


def _require_images(run: Run) -> None:
    """Check that there are images to measure with; the error names what needs none."""
    from prism_nb.data.registry import dataset_sizes, open_dataset

    try:
        open_dataset(run.settings)
    except UsageError as error:
        dataset_sizes(run.settings)  # raises too where not even the sizes are known
        raise UsageError(
            f"{error}; or add --count, which needs no images: it counts operations, files, bytes "
            "and memory"
        ) from None


def main() -> None:
    """Run the command; every failure ends with one message and no stack trace."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        remedy = str(stop) or "the same command continues where it stopped"
        click.echo(f"\ninterrupted; {remedy}", err=True)
        sys.exit(130)
    except Exception as error:
        message, code = _failure(error)
        click.echo(f"error: {message}", err=True)
        sys.exit(code)


def _failure(error: Exception) -> tuple[str, int]:
    """Return the message and exit code of a failed command."""
    if isinstance(error, PrismError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        return f"{error.format_message()}; see prism-nb --help", error.exit_code
    if isinstance(error, OSError | MemoryError):
        reason = error.strerror if isinstance(error, OSError) else "not enough memory"
        return f"{reason or error}; nothing that was finished is lost", 1
    return (
        f"{type(error).__name__}: {error}; this is a defect of the kit, please report "
        f"it{_save_trace()}. Finished work is kept"
    ), 1


def _save_trace() -> str:
    """Write the stack trace to a new file that only the user can read, and name it."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="prism-nb-error-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(traceback.format_exc())
    except OSError:
        return ""
    return f" with {file.name}"


def _interrupt(*_: object) -> None:
    """End on SIGTERM as on Ctrl-C: with a message, and without an orphaned kernel."""
    raise KeyboardInterrupt
