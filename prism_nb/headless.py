"""Execution of the notebooks by papermill, stage by stage."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.paths import project_root
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.progress import progress_bar
from prism_nb.execution.study import StudyFolder
from prism_nb.viz.html import NOTEBOOK_FOLDER

REPORT = "06_report"
STUDY = "07_ablation"
_KERNEL_ARGUMENTS = [
    # ipykernel warns at every start that it listens on loopback TCP; only errors matter here.
    "--IPKernelApp.log_level=40",
    "--IPKernelApp.exec_PYTHONSTARTUP=False",
]
_START_SECONDS = 300  # for a kernel on a busy machine or a slow disk


def run_notebooks(run: Run, *, log: Callable[[str], None]) -> None:
    """Execute every notebook that is not done, or not of the present results, in order.

    `log` is called with a line per stage.

    Raises:
        PrismError: A notebook failed, its kernel died, or a stage's own check did not pass.
            The failed notebook is saved with the others.
    """
    for stage in pipeline.STAGES.values():
        states = pipeline.state(run, stage.name)
        if not states.missing and _is_current(run, stage.notebook):
            log(f"{stage.notebook:<16} done before, {len(states.states)} units kept")
            continue
        run.locks.check_free(stage.name)  # before the driver's own notebook is overwritten
        begin = time.monotonic()
        with progress_bar(run, stage.name, len(states.states)):
            _execute(run, stage.notebook)
        pipeline.check(run, stage.name)
        taken = pipeline.taken_over_text(pipeline.count_taken_over(run, states.left))
        seconds = time.monotonic() - begin
        log(f"{stage.notebook:<16} {states.missing} units made{taken}, {seconds:.0f} s")
    report = run.file("figures/report.html")
    if _is_current(run, REPORT) and report.is_file():
        log(f"{REPORT:<16} done before")
        return
    begin = time.monotonic()
    _execute(run, REPORT)
    log(f"{REPORT:<16} written, {time.monotonic() - begin:.0f} s")


def notebook_path(run: Run, notebook: str) -> Path:
    """Return the path of an executed notebook."""
    return run.file(f"notebooks/{notebook}.ipynb")


def execute_study_notebook(folder: StudyFolder, study: str) -> None:
    """Execute the notebook of a study whose runs are finished; it writes the study's page."""
    parameters = {"study": study, "name": folder.path.name, "runs_dir": str(folder.path.parent)}
    execute_notebook(_source(STUDY), folder.path, parameters)


def execute_notebook(source: Path, folder: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook under papermill and save it in a folder's `notebooks`, failed or not.

    Its kernel is this interpreter's, whatever others are installed under that name. It reads no
    profile of IPython, whose startup files could change results, and imports from where this
    process does, so that no file of the working directory shadows a module.
    """
    import papermill
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    class OwnSpec(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-P", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name=kernel_name, language="python")

    class OwnKernel(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            options |= {"kernel_spec_manager": OwnSpec(), "connection_file": f"{place}/kernel.json"}
            super().__init__(**options)

    target = folder / "notebooks" / source.name
    logging.getLogger("papermill").setLevel(logging.ERROR)  # the terminal has a progress bar
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not in the user's home, which may be read-only.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            arguments = [
                *_KERNEL_ARGUMENTS,
                f"--IPKernelApp.ipython_dir={place}",
                f"--IPKernelApp.exec_lines=import os, sys; sys.path[:] = {sys.path!r}; "
                f"os.environ[{NOTEBOOK_FOLDER!r}] = {str(target.parent)!r}",
            ]
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=parameters,
                progress_bar=False,
                start_timeout=_START_SECONDS,
                kernel_manager_class=OwnKernel,
                extra_arguments=arguments,
                # Files of a run are written atomically, so the kernel may be killed at any moment.
                shutdown_kernel="immediate",
            )
    except papermill.PapermillExecutionError as error:
        raise cell_error(error.ename, f"{error.evalue}\n(the failed notebook: {target})") from None
    except OSError as error:
        raise fileio.write_error(Path(error.filename or target), error) from None
    except (DeadKernelError, CellTimeoutError) as error:
        raise PrismError(
            f"the kernel of {source.stem} died ({error}); out of memory is the usual cause. "
            "Finished units are kept: run the same command to continue. The notebook so far: "
            f"{target}"
        ) from None
    except RuntimeError as error:
        raise PrismError(
            f"the kernel of {source.stem} did not start ({error}). It is "
            f"`{sys.executable} -m ipykernel_launcher`, whose last words are above: make that "
            "work in this folder, and run the same command to continue"
        ) from None


def cell_error(name: str, message: str) -> PrismError:
    """Return the error to raise for one in a kernel, named unless it is one of the kit's."""
    if name == UsageError.__name__:
        return UsageError(message)
    kinds: list[type[PrismError]] = [PrismError, *PrismError.__subclasses__()]
    own = {kind.__name__ for kind in kinds}
    return PrismError(message if name in own else f"{name}: {message}")


def _source(notebook: str) -> Path:
    return project_root() / "notebooks" / f"{notebook}.ipynb"


def _execute(run: Run, notebook: str) -> None:
    parameters = {"run_name": run.name, "runs_dir": str(run.path.parent)}
    execute_notebook(_source(notebook), run.path, parameters)
    run.manifest.update(notebooks={notebook: _results_hash(run, notebook)})


def _is_current(run: Run, notebook: str) -> bool:
    """Return whether an executed notebook shows the results that the run has now."""
    recorded = run.manifest.read().get("notebooks", {}).get(notebook)
    return notebook_path(run, notebook).is_file() and recorded == _results_hash(run, notebook)


def _results_hash(run: Run, notebook: str) -> str:
    """Return the hash of a notebook's results: its stage's units, or all units for the report."""
    stages = [s.name for s in pipeline.STAGES.values() if notebook in {s.notebook, REPORT}]
    units = [unit for stage in stages for unit in pipeline.stage_units(run, stage)]
    return short_hash([(run.units.marker(unit) or {}).get("digest") for unit in units])
