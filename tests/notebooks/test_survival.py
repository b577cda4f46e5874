"""Interruptions, order and reuse of teachers leave the same images."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.backends import run_units
from tests.helpers.small_run import image_hashes, squeezed_run

SMALL: dict[str, Any] = {"methods": ["prism"], "ipc": 3, "recipe": {"iterations": 25}}


def new_run(folder: Path, name: str, **changes: Any) -> Run:
    return squeezed_run(folder, name, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(tmp_path_factory.mktemp("runs"), "undisturbed")
    pipeline.execute(run, "synthesis")
    return run


# Kills its own process at a unit's step once another unit is done.
DYING = """
import os, signal, sys
from pathlib import Path
from prism_nb.core.run import Run
from prism_nb.execution import pipeline

ended = []

def die(event):
    if event["event"] == "unit_end":
        ended.append(event["unit"])
    if ended and event["event"] == "step":
        os.kill(os.getpid(), signal.SIGKILL)

pipeline.execute(Run.open(Path(sys.argv[1])), "synthesis", die)
"""


def test_a_killed_run_continues_to_the_same_images(undisturbed: Run) -> None:
    run = new_run(undisturbed.path.parent, "killed")
    child = subprocess.run([sys.executable, "-c", DYING, str(run.path)], check=False)
    assert child.returncode == -signal.SIGKILL
    found = pipeline.plan(run, "synthesis")
    assert 0 < found.missing < len(found.states)
    outcome = pipeline.execute(run, "synthesis")
    assert outcome.skipped >= 1
    assert outcome.made == found.missing
    hashes = image_hashes(run)
    assert hashes == image_hashes(undisturbed)
    assert len(hashes) == len(set(hashes.values())) == 30


def test_units_do_not_depend_on_their_order(undisturbed: Run) -> None:
    run = new_run(undisturbed.path.parent, "backwards")
    units = pipeline.stage_units(run, "synthesis")[::-1]
    run_units(run, units, pipeline.STAGES["synthesis"].run_unit, lambda event: None)
    assert image_hashes(run) == image_hashes(undisturbed)


def test_a_stage_whose_inputs_are_missing_is_refused(undisturbed: Run) -> None:
    run = new_run(undisturbed.path.parent, "early")
    with pytest.raises(PrismError, match="stage synthesis .* not complete.*02_synthesis"):
        pipeline.execute(run, "diversity")
