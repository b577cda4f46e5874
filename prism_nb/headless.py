"""Execution of the notebooks by papermill, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.presets import project_root
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.progress import progress_bar
from prism_nb.execution.study import StudyFolder

REPORT = "06_report"
STUDY = "07_ablation"
# ipykernel warns at every start that it listens on loopback TCP; only errors matter here.
_KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=40"]


def run_notebooks(run: Run, *, log: Callable[[str], None], redo_notebooks: bool = False) -> None:
    """Execute every notebook whose stage is not done, in order.

    Args:
        run: The run, checked.
        log: Called with a line per stage.
        redo_notebooks: Execute the notebooks of finished stages too, but not their units.

    Raises:
        PrismError: A notebook failed, its kernel died, or a stage's own check did not pass.
            The failed notebook is saved with the others.
    """
    for stage in pipeline.STAGES.values():
        states = pipeline.plan(run, stage.name)
        if not states.missing and _is_current(run, stage.notebook) and not redo_notebooks:
            log(f"{stage.notebook:<16} done before, {len(states.states)} units kept")
            continue
        run.locks.check_free(stage.name)  # before the driver's own notebook is overwritten
        begin = time.monotonic()
        with progress_bar(run, stage.name, len(states.states)):
            execute_notebook(run, stage.notebook)
        pipeline.check(run, stage.name)
        _record_results_hash(run, stage.notebook)
        log(f"{stage.notebook:<16} {states.missing} units made, {time.monotonic() - begin:.0f} s")
    begin = time.monotonic()
    report = run.file("figures/report.html")
    if _is_current(run, REPORT) and report.is_file() and not redo_notebooks:
        log(f"{REPORT:<16} done before")
        return
    execute_notebook(run, REPORT)
    if not report.is_file():
        raise PrismError(f"{REPORT} wrote no report; see {notebook_path(run, REPORT)}")
    _record_results_hash(run, REPORT)
    log(f"{REPORT:<16} written, {time.monotonic() - begin:.0f} s")


def notebook_path(run: Run, notebook: str) -> Path:
    """Return the path of an executed notebook."""
    return run.file(f"notebooks/{notebook}.ipynb")


def execute_notebook(run: Run, notebook: str, source: Path | None = None) -> None:
    """Execute one notebook on a run under papermill.

    Args:
        run: The run.
        notebook: Its name without ending.
        source: The notebook's file; of the clone's `notebooks/` where None.

    Raises:
        PrismError: The notebook failed; the message is the notebook's own where it has one.
    """
    parameters = {"run_name": run.name, "runs_dir": str(run.path.parent)}
    execute_file(
        source or project_root() / "notebooks" / f"{notebook}.ipynb",
        notebook_path(run, notebook),
        parameters,
    )


def execute_study_notebook(folder: StudyFolder, study: str) -> None:
    """Execute the notebook of a study whose runs are finished; it writes the study's page."""
    parameters = {"study": study, "name": folder.path.name, "runs_dir": str(folder.path.parent)}
    source = project_root() / "notebooks" / f"{STUDY}.ipynb"
    execute_file(source, folder.path / "notebooks" / f"{STUDY}.ipynb", parameters)


def execute_file(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook file under papermill and save it as `target`, failed or not.

    Raises:
        PrismError: The notebook failed; the message is the notebook's own where it has one.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _quiet_papermill():
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=parameters,
                progress_bar=False,
                extra_arguments=_KERNEL_ARGUMENTS,
                # Files of a run are written atomically, so the kernel may be killed at any moment.
                shutdown_kernel="immediate",
            )
    except papermill.PapermillExecutionError as error:
        message = f"{error.evalue}\n(the failed notebook: {target})"
        raise _error_class(error.ename)(_format_error(error.ename, message)) from None
    except OSError as error:
        raise fileio.write_error(target, error) from None
    except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
        raise PrismError(
            f"the kernel of {source.stem} died ({error}); out of memory is the usual cause. "
            "Finished units are kept: run the same command to continue. The notebook so far: "
            f"{target}"
        ) from None


def _error_class(name: str) -> type[PrismError]:
    """Return the class to raise for an error in a kernel, by the name of the error's class."""
    return UsageError if name == UsageError.__name__ else PrismError


def _format_error(name: str, message: str) -> str:
    """Return the message, after the error's name unless it is one of the kit's."""
    kinds: list[type[PrismError]] = [PrismError, *PrismError.__subclasses__()]
    return message if name in {kind.__name__ for kind in kinds} else f"{name}: {message}"


def _content_of(run: Run, notebook: str) -> str:
    """Return the hash of a notebook's results: its stage's units, or all units for the report."""
    stages = [s.name for s in pipeline.STAGES.values() if notebook in {s.notebook, REPORT}]
    units = [unit for stage in stages for unit in pipeline.stage_units(run, stage)]
    return short_hash([(run.units.marker(unit) or {}).get("digest") for unit in units])


def _is_current(run: Run, notebook: str) -> bool:
    stamp = _stamps(run).get(notebook)
    if not notebook_path(run, notebook).is_file() or stamp is None:
        return False
    return bool(stamp == _content_of(run, notebook))


def _record_results_hash(run: Run, notebook: str) -> None:
    run.manifest.amend("notebooks", notebook, _content_of(run, notebook))


def _stamps(run: Run) -> dict[str, Any]:
    stamps = run.manifest.read().get("notebooks")
    return stamps if isinstance(stamps, dict) else {}


@contextmanager
def _quiet_papermill() -> Iterator[None]:
    """Keep papermill's log off the terminal, where the progress bar is."""
    import logging

    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
