"""Arguments that several commands have, and their completion in a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import click

from prism_nb.core.errors import PrismError
from prism_nb.core.paths import runs_folder

# Everything heavier than click is imported inside the functions: see `cli`.

PATH = click.Path(path_type=Path)


def completion(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return the completion of names of a kind; see `_names`."""

    def complete(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
        with suppress(PrismError):
            return [name for name in _names(kind, context.params) if name.startswith(typed)]
        return []

    return complete


def _names(kind: str, given: dict[str, Any]) -> Iterable[str]:
    """Return the names of presets, studies, stages or runs, or of the methods of a given run."""
    from prism_nb.core.presets import presets, studies
    from prism_nb.core.run import Run
    from prism_nb.core.settings import STAGES

    folder = runs_folder(given.get("runs_dir"))
    if kind == "method":
        return Run.open(folder / given["run_name"]).settings.methods
    runs = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    return {
        "preset": presets().names(),
        "study": studies().names(),
        "run": runs,
        "stage": STAGES[:-1],
    }[kind]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
runs_dir_option = click.option(
    "--runs-dir",
    type=PATH,
    is_eager=True,
    help="Folder of the runs [default: $PRISM_RUNS, else data/runs of the clone].",
)
assignments_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting; repeatable.",
)
_run_options = (
    click.argument("preset", required=False, shell_complete=completion("preset")),
    click.option(
        "--run",
        "run_name",
        shell_complete=completion("run"),
        help="Name of the run [default: the preset's].",
    ),
    assignments_option,
    click.option(
        "--recipe",
        "recipe_files",
        multiple=True,
        type=PATH,
        help="A recipe of your own (YAML) to add to the preset's methods; repeatable.",
    ),
    runs_dir_option,
)


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose a run and its settings; `run_arguments` evaluates them."""
    for add in reversed(_run_options):
        command = add(command)
    return command


def run_arguments(
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


def existing_run(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument RUN, and give the command that run."""

    @click.argument("run_name", metavar="RUN", shell_complete=completion("run"))
    @runs_dir_option
    @wraps(command)
    def with_run(run_name: str, runs_dir: Path | None, **options: Any) -> None:
        from prism_nb.execution.open_run import load_run

        command(load_run(run_name=run_name, runs_dir=runs_dir), **options)

    return with_run
