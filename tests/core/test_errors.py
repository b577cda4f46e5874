"""Suggestions for mistyped names, and first differences of lists."""

import os

from prism_nb.core.errors import PrismError, UsageError, suggest


def test_near_names_are_suggested_or_valid_ones_listed() -> None:
    assert suggest("prsm", ["prism", "sre2l"]) == "did you mean 'prism'?"
    assert suggest("zzz", ["prism", "sre2l"]) == "valid: prism, sre2l"
    assert suggest("zzz", []) == "none exist"
    assert suggest("zzz", [f"name{i}" for i in range(50)]).endswith("and 10 more")


def test_wrong_requests_and_failures_exit_differently() -> None:
    assert (PrismError.exit_code, UsageError.exit_code) == (1, 2)


def test_a_name_that_is_not_utf_8_can_be_shown() -> None:
    shown = str(UsageError(f"caf\xe9 {os.fsdecode(bytes([0x63, 0xE9]))} is missing"))
    assert shown == "caf\xe9 c\\udce9 is missing"
