"""A network that a pool can be picked from."""

from __future__ import annotations

from dataclasses import dataclass

from prism_nb.catalogue import Entry


@dataclass(frozen=True)
class Candidate(Entry):
    """An entry of a catalogue: the shipped one's, or of a network with weights of one's own.

    Attributes:
        measured_on: The dataset whose held-out images `accuracy` was measured on; empty where it
            is not known.
    """

    measured_on: str = ""
