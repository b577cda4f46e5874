"""The losses of units at work, a history for each of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

MOST = 64  # units whose losses are kept
Terms = dict[str, list[tuple[int, float]]]  # by the term's name: (step, value)


class Curves:
    """The losses by term of the units that report; workers' reports may come in any order.

    Attributes:
        by_unit: Each unit's losses, the unit that was heard of last standing last.
    """

    def __init__(self) -> None:
        self.by_unit: dict[str, Terms] = {}
        self._steps: dict[str, int] = {}

    def begin(self, unit: str) -> None:
        """Forget what a unit reported before it began anew."""
        self.by_unit.pop(unit, None)

    def add(
        self, unit: str, step: int, losses: Mapping[str, float], at_work: Collection[str]
    ) -> None:
        """Add a report; a step that is not later than the last one begins a new curve.

        Of `MOST` units the losses are kept. One more takes the place of a unit that has ended;
        where all are at work it has none.

        Args:
            unit: The unit.
            step: Steps that it has done.
            losses: The terms' values.
            at_work: Units whose losses are still wanted.
        """
        terms = self.by_unit.pop(unit, None)
        if terms is None and not self._make_room(at_work):
            return
        if terms is None or step <= self._steps[unit]:
            terms = {}
        for term, value in losses.items():
            terms.setdefault(term, []).append((step, value))
        self.by_unit[unit], self._steps[unit] = terms, step

    def _make_room(self, at_work: Collection[str]) -> bool:
        """Let go of the unit that was heard of longest ago, if there are many and it has ended."""
        if len(self.by_unit) < MOST:
            return True
        ended = next((unit for unit in self.by_unit if unit not in at_work), None)
        if ended is not None:
            del self.by_unit[ended], self._steps[ended]
        return ended is not None
