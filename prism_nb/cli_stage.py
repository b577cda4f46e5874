"""The command `prism-nb stage`: one stage of a run, without a notebook."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from prism_nb.cli_options import runs_dir_option


@click.command("stage")
@click.argument("run_name", metavar="RUN")
@click.argument("stage")
@runs_dir_option
def stage_command(run_name: str, stage: str, runs_dir: Path | None) -> None:
    """Do what is left of one STAGE of RUN: teachers, synthesis, diversity, labels or evaluation.

    Ctrl-C stops it; the same command continues it. Notebook 02's monitor starts it this way.
    """
    from prism_nb import opening, pipeline
    from prism_nb.progress import FollowedBar

    # Whatever starts it may have told its children to ignore Ctrl-C, by which it is to be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = opening.open_run(run_name=run_name, runs_dir=runs_dir)
    with FollowedBar(run, stage, len(pipeline.stage_units(run, stage))):
        outcome = pipeline.execute(run, stage)
    click.echo(
        f"{stage}: {outcome.made} units made, {outcome.kept} were there already, "
        f"{outcome.seconds:.1f} s"
    )
