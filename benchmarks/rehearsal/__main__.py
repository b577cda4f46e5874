"""Rehearse the ImageNet preset: `python -m benchmarks.rehearsal` (`make rehearsal`).

A generated tree of 1,000 classes, random weights and few steps go through all six notebooks, are
killed once and go on. It proves paths, memory, file counts, class order, plan and report at that
number of classes; what the methods do on ImageNet it cannot say.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from benchmarks.common import ROOT, write
from benchmarks.rehearsal.calls import environment
from benchmarks.rehearsal.drive import rehearse
from benchmarks.rehearsal.facts import facts
from benchmarks.rehearsal.record import rows
from benchmarks.rehearsal.scale import Place, Scale
from prism_nb.core.errors import PrismError


def main() -> int:
    """Rehearse, print what holds and what it took, and return the exit status."""
    asked = _arguments()
    # Asked to stop, it must not leave a run behind, whose processes are in groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = Place(asked.folder.absolute())
    # What is looked at here must be what the calls have made, and not an index of another tree
    # that lay in this folder before: generated trees all have the same times.
    os.environ.update(environment(place))
    found = rehearse(Scale(classes=asked.classes, ipc=asked.ipc), place, _say)
    checked = facts(found)
    table = rows(found, checked)
    for fact in checked:
        _say(str(fact))
    for row in table:
        if "fact" not in row:
            _say(", ".join(f"{name} {value}" for name, value in row.items()))
    if asked.save:
        write(f"rehearsal_ipc{asked.ipc}", table)
    if not asked.keep and all(fact.holds for fact in checked):
        shutil.rmtree(place.folder)
    return int(not all(fact.holds for fact in checked))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.rehearsal", description=__doc__)
    parser.add_argument("--classes", type=int, default=1000, help="of a thousand")
    parser.add_argument("--ipc", type=int, default=2, help="images per class")
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "rehearsal")
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrismError as error:
        sys.exit(f"error: {error}")
