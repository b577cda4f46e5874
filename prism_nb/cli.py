"""The command `prism-nb`: run, plan, look at and verify runs without opening a notebook."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prism_nb import __version__
from prism_nb.errors import PrismError

if TYPE_CHECKING:
    from prism_nb.run import Run

# Everything heavier than click is imported inside the commands, so that --help answers at once.

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
_run_name = click.option("--run", "run_name", help="Name of the run [default: the preset's].")

_SHOWN_OF_A_RECIPE = (
    *("selection", "primary_in_bn", "bn_slots", "bn_probability", "batches", "init"),
    *("iterations", "lr", "bn_weight", "crop_min", "crop_schedule"),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prism-nb")
def cli() -> None:
    """Distil a dataset with PRISM and its rivals, from a preset to an honest table."""


@cli.command()
@click.argument("preset")
@_run_name
@_set
@_runs_dir
@click.option("--redo-notebooks", is_flag=True, help="Execute notebooks of finished stages again.")
def run(
    preset: str,
    run_name: str | None,
    assignments: tuple[str, ...],
    runs_dir: Path | None,
    redo_notebooks: bool,
) -> None:
    """Execute all notebooks of PRESET headlessly; the same command continues an interrupted run."""
    from prism_nb import pipeline
    from prism_nb.config import parse_assignments
    from prism_nb.headless import notebook_path, run_series

    begin = time.monotonic()
    changes = parse_assignments(assignments)
    opened = pipeline.open_run(run_name=run_name, preset=preset, runs_dir=runs_dir, changes=changes)
    click.echo(f"run {opened.path}")
    run_series(opened, say=click.echo, redo_notebooks=redo_notebooks)
    from prism_nb import tables

    click.echo("\n" + tables.answer_table(opened).to_string() + "\n")
    click.echo(f"report     {opened.path / 'figures' / 'report.html'}")
    click.echo(f"notebooks  {notebook_path(opened, '06_report').parent}")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")


@cli.command()
@click.argument("preset")
@_run_name
@_set
@_runs_dir
def plan(
    preset: str, run_name: str | None, assignments: tuple[str, ...], runs_dir: Path | None
) -> None:
    """Show what `run` would do, and write nothing."""
    from prism_nb import pipeline
    from prism_nb.config import parse_assignments

    found = pipeline.find_run(
        run_name=run_name,
        preset=preset,
        runs_dir=runs_dir,
        changes=parse_assignments(assignments),
    )
    found.require_unmixed()
    from prism_nb.preflight import preflight

    preflight(found.settings)
    _print_plans(found)


@cli.command()
@click.argument("run_name")
@_runs_dir
def status(run_name: str, runs_dir: Path | None) -> None:
    """Show what a run has done so far; works while it is going on."""
    from prism_nb import pipeline

    found = pipeline.find_run(run_name=run_name, runs_dir=runs_dir)
    _print_plans(found)
    for stage in pipeline.STAGES:
        for last in deque(found.events(stage), maxlen=1):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.get("time", 0)))
            click.echo(f"{stage:<11} last event {at}: {last.get('event')} {last.get('unit', '')}")


@cli.command()
@click.argument("run_name")
@_runs_dir
def verify(run_name: str, runs_dir: Path | None) -> None:
    """Hash every file that a unit of the run has made; exit 1 if anything is damaged."""
    from prism_nb import pipeline

    found = pipeline.find_run(run_name=run_name, runs_dir=runs_dir)
    bad = 0
    for stage in pipeline.STAGES:
        states = pipeline.plan(found, stage).states
        whole = sum(state.state == "done" for state in states)
        click.echo(f"{stage:<11} {whole} of {len(states)} units complete and whole")
        for state in states:
            if state.state not in {"done", "missing"}:
                bad += 1
                click.echo(f"  {state.state}: {state.unit.name}: {state.reason}")
    if bad:
        raise PrismError(
            f"{bad} unit{'s' * (bad > 1)} cannot be trusted; `prism-nb run` does them, and what "
            "they feed, again"
        )


@cli.command()
def methods() -> None:
    """List the recipes: what steers each, what it lacks, and where it comes from."""
    from prism_nb.recipes import load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        click.echo(f"{name:<12} {recipe.title}; {recipe.paper}")
        if recipe.images == "initial":
            click.echo(f"{'':<12} random training images, not optimised")
            continue
        values = {key: getattr(recipe, key) for key in _SHOWN_OF_A_RECIPE}
        click.echo(f"{'':<12} " + ", ".join(f"{key} {value}" for key, value in values.items()))
        if recipe.lacks:
            click.echo(f"{'':<12} lacks: {recipe.lacks}")


def _print_plans(found: Run) -> None:
    import pandas as pd

    from prism_nb import pipeline, tables

    plans = [tables.plan_table(pipeline.plan(found, s, deep=False)) for s in pipeline.STAGES]
    table = pd.concat(plans).fillna(0)
    counts = [name for name in table.columns if "units" in name or name == "to do"]
    table[counts] = table[counts].astype(int)
    click.echo(f"run {found.path}\n\n{table.to_string()}\n")


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
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; the same command continues where it stopped", err=True)
        sys.exit(130)
    except (OSError, MemoryError) as error:
        what = error.strerror if isinstance(error, OSError) else "not enough memory"
        click.echo(f"error: {what or error}; nothing that was finished is lost", err=True)
        sys.exit(1)
    except Exception as error:
        log = Path(tempfile.gettempdir()) / "prism-nb-error.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        click.echo(
            f"error: {type(error).__name__}: {error}; this is a defect of the kit, please report "
            f"it with {log}. Finished work is kept",
            err=True,
        )
        sys.exit(1)


def _as_interrupt(*_: object) -> None:
    """Let a request to stop end like Ctrl-C: with a message, and without an orphaned kernel."""
    raise KeyboardInterrupt
