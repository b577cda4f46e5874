"""The commands that take sets of images over and hand them on."""

from __future__ import annotations

from pathlib import Path

import click

from prism_nb.cli_options import runs_dir_option, set_option

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
    from prism_nb.config import parse_assignments
    from prism_nb.sets import import_set

    run, outcome = import_set(
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
    from prism_nb import opening
    from prism_nb.exchange.export import export_set

    found = opening.find_run(run_name=run_name, runs_dir=runs_dir)
    done = export_set(found, method, dest, layout=layout, kind=kind, quality=quality)
    click.echo(f"{done.images} images in {dest}, {done.coding}")
    click.echo(f"content of the run's images: {done.content}")
