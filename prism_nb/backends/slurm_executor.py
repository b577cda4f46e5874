"""What of the `slurm` settings goes to submitit, checked before anything is submitted."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism_nb.device import choose_device
from prism_nb.errors import PrismError, UsageError, suggest
from prism_nb.settings import Settings

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

CLUSTERS = ("slurm", "local")
_COMMANDS = ("sbatch", "srun", "squeue")
_OWN = "cluster"  # chooses submitit's executor
_TIMEOUTS = "slurm_max_num_timeout"  # submitit takes it apart from the others
_NAMES = ("name", "slurm_job_name")
_MINUTES = 240  # a job that needs more is queued again
_MOST_TIMEOUTS = 50  # by which a job that never gets further comes to an end


def cluster_of(settings: Settings) -> str:
    """Return who runs the jobs: `slurm`, or `local` for processes of this machine."""
    return str(settings.slurm.get(_OWN, "slurm"))


def require_slurm(settings: Settings) -> None:
    """Check that jobs can be submitted from here, without submitting any.

    Raises:
        UsageError: submitit is not installed, this machine cannot submit, or the `slurm` settings
            hold something that submitit does not take.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError(
            "backend slurm needs the package submitit, which is not installed; install it with "
            "`pip install submitit`, or use backend process"
        ) from None
    cluster = cluster_of(settings)
    if cluster not in CLUSTERS:
        raise UsageError(f"slurm.cluster: {cluster!r} is none; {suggest(cluster, CLUSTERS)}")
    _refuse_strangers(settings.slurm)
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if cluster == "slurm" and missing:
        raise UsageError(
            f"backend slurm needs the command {missing[0]}, which is not on the PATH here; start "
            "the run on a login node of the cluster, or try jobs out on this machine with "
            "slurm={cluster: local}"
        )


def executor_of(settings: Settings, folder: Path, name: str, token: str) -> AutoExecutor:
    """Return what submits jobs, with all of its parameters.

    Args:
        settings: The run's.
        folder: Where scripts and logs of the jobs lie; every node must see it.
        name: The jobs' name in the queue, where the settings have none.
        token: What the name ends with, by which these jobs are told from others.

    Raises:
        UsageError: As `require_slurm`, or a parameter has a wrong type.
    """
    require_slurm(settings)
    from submitit import AutoExecutor

    given = {key: value for key, value in settings.slurm.items() if key not in {_OWN, _TIMEOUTS}}
    for setting in _NAMES:
        name = given.pop(setting, name)
    timeouts = {_TIMEOUTS: settings.slurm.get(_TIMEOUTS, _MOST_TIMEOUTS)}
    executor = AutoExecutor(folder, cluster=cluster_of(settings), **timeouts)
    try:
        executor.update_parameters(**{**_defaults(settings), **given, "name": f"{name}-{token}"})
    except (AssertionError, TypeError, ValueError, NameError) as error:
        raise UsageError(f"slurm: submitit does not take these parameters: {error}") from None
    return executor


def submit(executor: AutoExecutor, calls: Sequence[Any]) -> list[Job[None]]:
    """Submit calls without arguments as one job array.

    Raises:
        PrismError: They were refused; the message is the cluster's own.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return executor.submit_array(calls)
    except (FailedJobError, FailedSubmissionError) as error:
        reason = " ".join(str(error).split())
        raise PrismError(
            f"sbatch refused the jobs: {reason}; change the setting `slurm` (submitit's names, "
            "e.g. slurm_partition) and run the same command again"
        ) from None


def _defaults(settings: Settings) -> dict[str, Any]:
    """Return what jobs ask for where the settings leave it open."""
    on_gpu = choose_device(settings.device).type == "cuda"
    values = {
        "timeout_min": _MINUTES,
        "cpus_per_task": 1 if settings.threads == "auto" else settings.threads,
    }
    gpus = math.ceil(settings.gpus_per_unit) if on_gpu else 0
    return values | ({"gpus_per_node": gpus} if gpus else {})


def _refuse_strangers(given: Mapping[str, Any]) -> None:
    valid = _parameters()
    for name in given:
        if name not in valid:
            near = f"slurm_{name}" if f"slurm_{name}" in valid else name
            raise UsageError(f"slurm: {name!r} is no parameter of submitit; {suggest(near, valid)}")


def _parameters() -> set[str]:
    """Return every name that the `slurm` settings may hold."""
    from submitit import AutoExecutor, SlurmExecutor

    own = {f"slurm_{name}" for name in SlurmExecutor._valid_parameters()}
    return {_OWN, _TIMEOUTS} | own | AutoExecutor._valid_parameters()
