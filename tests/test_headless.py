"""What a failed notebook's error is called outside of it."""

import pytest

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.lock import LeaseLostError
from prism_nb.headless import cell_error


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("UsageError", UsageError, "no such setting"),
        (LeaseLostError.__name__, PrismError, "no such setting"),
        ("ValueError", PrismError, "ValueError: no such setting"),
    ],
)
def test_only_foreign_errors_are_named(name: str, kind: type[PrismError], message: str) -> None:
    error = cell_error(name, "no such setting")
    assert (type(error), str(error)) == (kind, message)
