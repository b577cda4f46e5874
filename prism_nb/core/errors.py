"""Errors for users: what is wrong, where, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from prism_nb.core.text import format_first

_LISTED = 40  # the most names that a message lists


class PrismError(Exception):
    """An error that a user can act on. The CLI prints the message alone and exits with 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # Names of files that are not UTF-8 could be sent neither to a notebook nor to a log.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())

    def _render_traceback_(self) -> list[str]:
        """Make IPython show the message instead of a stack trace."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(PrismError):
    """A wrong name, type or value in a request. The CLI exits with 2."""

    exit_code = 2


def suggest(name: str, valid: Iterable[str]) -> str:
    """Return "did you mean ..." for a mistyped name, or the list of what is valid."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not names:
        return "none exist"
    return f"valid: {format_first(names, _LISTED)}"
