"""Failures a user can act on: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

_LISTED = 40  # the most names that a message lists


class PrismError(Exception):
    """A run that cannot go on. The terminal shows the message alone and exits with 1."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Tell IPython to show the message instead of a stack trace."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(PrismError):
    """A request that cannot be meant: a wrong name, type or value. Exits with 2."""

    exit_code = 2


def suggest(name: str, valid: Iterable[str], *, most: int = 3) -> str:
    """Return "did you mean ..." for a mistyped name, or the list of what is valid.

    Args:
        name: What the user wrote.
        valid: The names that exist.
        most: The number of near names to offer.
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=most, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not names:
        return "none exist"
    shown = ", ".join(names[:_LISTED])
    return f"valid: {shown}" + (f" and {len(names) - _LISTED} more" if names[_LISTED:] else "")


def first_difference(mine: Sequence[Any], theirs: Sequence[Any]) -> tuple[int, Any, Any] | None:
    """Return the first place where two lists differ, and what each has there, if they do.

    None stands for what a shorter list does not have.
    """
    for index, (one, other) in enumerate(zip_longest(mine, theirs)):
        if one != other:
            return index, one, other
    return None
