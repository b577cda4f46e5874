"""The files of the evaluation stage."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from prism_nb.core import fileio
from prism_nb.core.unit_plan import student_units
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation import stage
from prism_nb.evaluation.student import evaluate
from prism_nb.models.zoo import build_network, load_weights
from tests.helpers.image_sets import begin_run


def test_a_unit_writes_scores_and_weights_that_agree(tmp_path: Path) -> None:
    changes = {"labels": "hard", "student_loss": "ce", "label_epochs": 3, "evaluate_every": 2}
    run = begin_run(tmp_path, students=["test_byobnet"], student_seeds=1, **changes)
    (unit,) = student_units(run, 10)
    events: list[dict[str, object]] = []
    stage.run_unit(run, unit, events.append)
    folder = run.file(unit.params["folder"])
    assert [event["step"] for event in events] == [1, 2, 3]
    assert run.units.is_done(unit)

    summary = fileio.read_json(folder / "summary.json")
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics["epoch"]) == [2, 3]
    assert summary["last"] == metrics["top1"].iloc[-1]
    assert summary["best"] == metrics["top1"].max()

    dataset = open_dataset(run.settings)
    student = build_network("test_byobnet", classes=10, image_size=dataset.image_size)
    load_weights(student, load_file(folder / "last.safetensors"))
    result = evaluate(student.eval(), dataset, torch.device("cpu"))
    assert (result.top1, result.top5) == (summary["last"], summary["top5"])
    assert stage.student_table(run)["test loss"].to_list() == pytest.approx([result.loss])
    confusion = pd.read_csv(folder / "confusion.csv")
    assert confusion.to_numpy().tolist() == result.confusions
    assert not list(folder.glob("*.checkpoint"))
