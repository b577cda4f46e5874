"""The command `prism-nb study`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from prism_nb.cli_options import runs_dir_option


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
    from prism_nb.study.execute import check_study, default_workers, execute_study, plan_table
    from prism_nb.study.folder import StudyFolder

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
    from prism_nb.report.study import answer_table, study_tables, verdicts

    execute_study_notebook(folder, study)
    tables = study_tables(folder)
    answer = answer_table(folder, tables["summary"], tables["pairs"])
    click.echo(f"\n{answer.to_string()}\n")
    for sentence in verdicts(folder, tables["summary"], tables["pairs"]):
        click.echo(sentence)
    click.echo(f"\npage       {folder.path / 'study.html'}")
    click.echo(f"notebook   {folder.path / 'notebooks' / STUDY}.ipynb")
    click.echo(f"wall time  {time.monotonic() - begin:.0f} s")
