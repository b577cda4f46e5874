"""Networks with weights from elsewhere: found, read safely, cut to the classes, and used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prism_nb.backends import run_units
from prism_nb.pipeline import open_run
from prism_nb.plans.squeeze import network_unit, units
from prism_nb.run import Run
from prism_nb.teachers.pool import load_teacher

WORK = "prism_nb.teachers.work:do_unit"


def squeezed(tmp_path: Path, name: str, **changes: Any) -> Run:
    """A run whose networks are there."""
    run = open_run(run_name=name, preset="digits_quick", runs_dir=tmp_path, changes=changes)
    run_units(run, units(run, 10), WORK, lambda _: None)
    return run


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with one trained network."""
    changes = {
        "teachers": ["test_resnet"],
        "observers": ["test_mambaout"],
        "students": ["test_resnet"],
        "squeeze_epochs": 2,
    }
    return squeezed(tmp_path_factory.mktemp("donor"), "donor", **changes)


def test_a_trained_network_of_one_run_is_a_teacher_of_another(donor: Run, tmp_path: Path) -> None:
    file = donor.file("teachers/test_resnet.safetensors")
    name = f"test_resnet@{file}"
    run = squeezed(tmp_path, "r", teachers=[name, "test_byobnet"], primary=name, squeeze_epochs=1)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(load_teacher(run, name)(images), load_teacher(donor, "test_resnet")(images))
    mine, theirs = (
        run.record(network_unit(run.settings, name)),
        donor.record(network_unit(donor.settings, "test_resnet")),
    )
    assert mine["accuracy"] == theirs["accuracy"] > 0.5
