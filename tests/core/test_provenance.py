"""What a run records of where it was made."""

from __future__ import annotations

from typing import Any

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.manifest import environment, recorded_environment

SETTINGS = load_settings("digits_quick", {})


def test_a_run_says_where_it_was_made() -> None:
    recorded = {**environment(SETTINGS), "machine": "another one"}
    assert recorded_environment({"environment": recorded}, SETTINGS) == recorded


@pytest.mark.parametrize("recorded", [None, [], {}, {"machine": "another one"}])
def test_a_damaged_record_gives_way_to_this_machine(recorded: Any) -> None:
    assert recorded_environment({"environment": recorded}, SETTINGS) == environment(SETTINGS)
    assert recorded_environment({}, SETTINGS) == environment(SETTINGS)


def test_versions_that_are_none_give_way_too() -> None:
    recorded = {**environment(SETTINGS), "versions": "2.0"}
    assert recorded_environment({"environment": recorded}, SETTINGS) == environment(SETTINGS)
