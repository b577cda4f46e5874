"""The command `prism-nb`: run, plan, look at and verify runs without opening a notebook."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prism_nb import __version__
from prism_nb.cli_catalogue import catalogue_command
from prism_nb.cli_lists import methods_command, protocols_command
from prism_nb.cli_options import runs_dir_option as _runs_dir
from prism_nb.cli_options import set_option as _set
from prism_nb.cli_sets import export_command, import_command
from prism_nb.cli_stage import stage_command
from prism_nb.cli_study import study_command
from prism_nb.errors import PrismError

if TYPE_CHECKING:
    from prism_nb.run import Run

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
@_set
@_recipes
@_runs_dir
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
    from prism_nb import opening
    from prism_nb.headless import notebook_path, run_series
    from prism_nb.room import require_room

    begin = time.monotonic()
    changes = _changes(preset, run_name, assignments, recipe_files)
    opened = opening.open_run(run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes)
    click.echo(f"run {opened.path}")
    require_room(opened)
    with _saying_what_goes_on(opened):
        run_series(opened, say=click.echo, redo_notebooks=redo_notebooks)
    from prism_nb import tables

    click.echo("\n" + tables.answer_table(opened).to_string() + "\n")
    click.echo(f"report     {opened.path / 'figures' / 'report.html'}")
    click.echo(f"notebooks  {notebook_path(opened, '06_report').parent}")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command()
@click.argument("preset", required=False)
@_run_name
@_set
@_recipes
@_runs_dir
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
    from prism_nb import opening
    from prism_nb.cli_counts import echo_counts, require_images

    found = opening.find_run(
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
    require_images(found.settings)
    found.require_unmixed()
    from prism_nb.preflight import preflight

    preflight(found.settings, found)
    _print_plans(found, measure=not quick, for_all=True)


@cli.command()
@click.argument("run_name")
@_runs_dir
def status(run_name: str, runs_dir: Path | None) -> None:
    """Show what a run has done so far; works while it is going on."""
    from prism_nb import opening, pipeline

    found = opening.find_run(run_name=run_name, runs_dir=runs_dir)
    _print_plans(found)
    for stage in pipeline.STAGES:
        for last in deque(found.events(stage), maxlen=1):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.get("time", 0)))
            click.echo(f"{stage:<11} last event {at}: {last.get('event')} {last.get('unit', '')}")


@cli.command()
@click.argument("run_name")
@_runs_dir
@click.option("--clean", is_flag=True, help="Remove what interrupted writes have left.")
def verify(run_name: str, runs_dir: Path | None, clean: bool) -> None:
    """Check a run's settings, hashes, class order and labels; exit 1 if anything is damaged."""
    from prism_nb import opening, verification

    found = opening.find_run(run_name=run_name, runs_dir=runs_dir)
    if clean:
        removed = verification.clean(found)
        click.echo(f"{removed} file{'s' * (removed != 1)} of interrupted work removed")
    verdict = verification.verify_run(found)
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
        from prism_nb.backends.on_slurm import left_behind

        raise KeyboardInterrupt(left_behind(run)) from None


def _changes(
    preset: str | None,
    run_name: str | None,
    assignments: tuple[str, ...],
    recipe_files: tuple[Path, ...],
) -> dict[str, Any]:
    """Return what a command changes of a preset, or of a run where none is named."""
    from prism_nb.config import add_recipes, parse_assignments

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

    from prism_nb import pipeline, tables

    plans = [pipeline.plan(found, s, deep=False, measure=measure) for s in pipeline.STAGES]
    if for_all:
        from prism_nb.cli_counts import disk_words, petaflop_left, sharing_cache

        plans = sharing_cache(found, plans)
    table = pd.concat([tables.plan_table(each) for each in plans]).fillna(0)
    counts = [name for name in table.columns if "units" in name or name == "to do"]
    table[counts] = table[counts].astype(int)
    if for_all:
        table["PFLOP"] = petaflop_left(found, plans)
    click.echo(f"run {found.path}\n\n{table.to_string()}\n")
    if for_all:
        click.echo(disk_words(plans))
    known = [each.seconds_left for each in plans if each.seconds_left is not None]
    unknown = [each.stage for each in plans if each.seconds_left is None and each.missing]
    if any(known):
        beside = " and ".join(["notebooks", *unknown])
        click.echo(f"{tables.duration(sum(known))} to the end, {beside} not counted\n")


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
