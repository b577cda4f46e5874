"""Named results of a run say by what labels its students were trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_nb.viz.results import RUN_RESULTS
from tests.helpers.evaluated_run import evaluated_run


@pytest.mark.parametrize("name", ["accuracy", "learning", "transfer", "eval_variants", "scores"])
def test_tables_by_method_have_the_number_of_label_teachers(name: str, tmp_path: Path) -> None:
    found = RUN_RESULTS[name](evaluated_run(tmp_path))
    numbers = found.table.reset_index().set_index("method")["label teachers"]
    assert set(numbers[["prism", "random_real"]]) == {4}
    if found.figure is not None:
        assert found.figure.layout.title.subtitle.text == "Label teachers: 4"


@pytest.mark.parametrize("name", ["classes", "class_gains"])
def test_tables_by_class_have_it_in_their_note(name: str, tmp_path: Path) -> None:
    hard = {"labels": "hard", "student_loss": "ce", "eval_variants": ["protocol"]}
    found = RUN_RESULTS[name](evaluated_run(tmp_path, **hard))
    assert found.note == "Label teachers: 0."
    assert found.figure.layout.title.subtitle.text == "Label teachers: 0"
