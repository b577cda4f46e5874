"""Values for readers."""

from typing import Any

import pytest

from prism_nb.core.text import format_bytes, format_duration, format_first, format_ipc, format_value


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
def test_values_are_formatted(value: Any, words: str) -> None:
    assert format_value(value) == words


def test_sizes_and_durations_are_formatted() -> None:
    assert [format_bytes(n) for n in (None, 1_500_000, 2_500_000_000)] == [
        "not measured", "1.5 MB", "2.5 GB",
    ]  # fmt: skip
    assert [format_duration(s) for s in (None, 30, 600, 9000, 200_000)] == [
        "not measured", "30 s", "10.0 min", "2.5 h", "2.3 d",
    ]  # fmt: skip


def test_images_per_class_are_in_words() -> None:
    assert [format_ipc(n) for n in (1, 2, 1000)] == [
        *("1 image per class", "2 images per class", "1,000 images per class"),
    ]


def test_long_lists_are_cut_short() -> None:
    assert format_first(["a", "b", "c"]) == "a, b, c"
    assert format_first(["a", "b", "c"], 1) == "a and 2 more"
