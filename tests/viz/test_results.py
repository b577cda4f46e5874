"""Named results of a run say by what labels its students were trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_nb.viz.results import RUN_RESULTS
from tests.helpers.evaluated_run import evaluated_run

BY_METHOD = ("accuracy", "learning", "transfer", "eval_variants", "scores")


@pytest.mark.parametrize("name", [*BY_METHOD, "classes", "class_gains"])
def test_results_of_students_say_how_many_networks_label(name: str, tmp_path: Path) -> None:
    found = RUN_RESULTS[name](evaluated_run(tmp_path))
    if name in BY_METHOD:
        numbers = found.table.reset_index().set_index("method")["label teachers"]
        assert set(numbers[["prism", "random_real"]]) == {4}
    else:
        assert found.note == "Label teachers: 4."
    if found.figure is not None:
        assert found.figure.layout.title.subtitle.text == "Label teachers: 4"
