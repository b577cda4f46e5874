"""What a failed notebook's error is called outside of it."""

from __future__ import annotations

import pytest

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.headless import _error_class, _format_error


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("UsageError", UsageError, "no such setting"),
        ("PrismError", PrismError, "no such setting"),
        ("CorruptImageError", PrismError, "no such setting"),
        ("ValueError", PrismError, "ValueError: no such setting"),
    ],
)
def test_the_kits_own_errors_speak_for_themselves(
    name: str, kind: type[PrismError], words: str
) -> None:
    import prism_nb.data.image_io  # noqa: F401 (whoever runs notebooks has looked at images)

    assert _error_class(name) is kind
    assert _format_error(name, "no such setting") == words
