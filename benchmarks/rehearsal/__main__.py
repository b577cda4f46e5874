"""Rehearse the ImageNet preset: `python -m benchmarks.rehearsal` (`make rehearsal`).

A generated tree of 1,000 classes, random weights and few steps go through all notebooks, are killed
once and continue. It checks paths, memory, file counts, class order, plan and report at that number
of classes; it does not show how well the methods do on ImageNet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write
from benchmarks.rehearsal.drive import Rehearsal, environment, rehearse
from benchmarks.rehearsal.facts import facts
from prism_nb.core.errors import PrismError


def main() -> int:
    """Rehearse, print facts and costs, and return the exit status."""
    parser = argparse.ArgumentParser("benchmarks.rehearsal", description=__doc__)
    parser.add_argument("--classes", type=int, default=1000, help="of a thousand")
    parser.add_argument("--ipc", type=int, default=2, help="images per class")
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "rehearsal")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results")
    asked = parser.parse_args()
    # On SIGTERM the run must end too; its processes are in groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = Rehearsal(asked.folder.absolute(), classes=asked.classes, ipc=asked.ipc)
    # The checks must read the calls' cache, not an index of an earlier tree in this folder.
    os.environ.update(environment(found))
    rehearse(found, _say)
    checked = facts(found)
    for fact in checked:
        _say(str(fact))
    rows = [_costs(found), *({"fact": f.statement, "found": f.found} for f in checked)]
    _say(", ".join(f"{name} {value}" for name, value in rows[0].items()))
    if asked.save:
        write(f"rehearsal_ipc{asked.ipc}", rows)
    all_hold = all(fact.holds for fact in checked)
    if all_hold and not asked.keep:
        shutil.rmtree(found.folder)
    return int(not all_hold)


def _costs(found: Rehearsal) -> dict[str, Any]:
    """Return seconds, memory, files and bytes."""
    run, cache = (
        [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        for folder in (found.run, found.cache)
    )
    return {
        "case": f"{found.classes} classes, IPC {found.ipc}, {found.image_size} px",
        "seconds": {what: round(call.seconds, 1) for what, call in found.calls.items()},
        "peak_bytes": max(call.peak_bytes for call in found.calls.values()),
        "files": len(run),
        "bytes": sum(run),
        "cache_bytes": sum(cache),
    }


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrismError as error:
        sys.exit(f"error: {error}")
