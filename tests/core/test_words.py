"""Values are told as people read them."""

from typing import Any

import pytest

from prism_nb.core.text import format_value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "yes"),
        (False, "no"),
        (None, "–"),
        ([], "–"),
        ({}, "–"),
        (["a", None], "a, –"),
        ({"init": "noise", "views": False}, "init: noise, views: no"),
        (0.25, "0.25"),
        (0, "0"),
    ],
)
def test_values_in_words(value: Any, words: str) -> None:
    assert format_value(value) == words
