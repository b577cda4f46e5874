"""Rehearsal of the ImageNet preset: `python -m benchmarks.rehearsal` (`make rehearsal`)."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import click

from benchmarks.common import ROOT, report
from benchmarks.rehearsal.drive import Rehearsal, environment, rehearse
from benchmarks.rehearsal.facts import facts
from prism_nb.core.errors import PrismError


@click.command()
@click.option("--classes", default=1000, show_default=True, help="of ImageNet's thousand")
@click.option("--ipc", default=2, show_default=True, help="images per class")
@click.option("--folder", type=Path, default=ROOT / "data" / "rehearsal", show_default=True)
@click.option("--save", is_flag=True, help="write the rows to benchmarks/results")
def main(classes: int, ipc: int, folder: Path, save: bool) -> None:
    """Run the ImageNet preset on generated files and check it; exits with 1 if a check fails.

    A generated tree of 1,000 classes, random weights and few steps go through all notebooks, are
    killed once and continue. It checks paths, file counts, class order, plan and report at that
    number of classes; it does not show how well the methods do on ImageNet.
    """
    # On SIGTERM the run must end too; its processes are in groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rehearsal = Rehearsal(folder.absolute(), classes=classes, ipc=ipc)
    # The checks must read the calls' cache, not an index of an earlier tree in this folder.
    os.environ.update(environment(rehearsal))
    try:
        rehearse(rehearsal)
    except PrismError as error:
        sys.exit(f"error: {error}")
    checked = facts(rehearsal)
    sizes = [path.stat().st_size for path in rehearsal.run.rglob("*") if path.is_file()]
    costs = {**rehearsal.seconds, "files of the run": len(sizes), "bytes of the run": sum(sizes)}
    rows = [fact._asdict() for fact in checked]
    rows += [{"cost": name, "value": value} for name, value in costs.items()]
    report(f"rehearsal_ipc{ipc}", rows, save=save)
    if not all(fact.holds for fact in checked):
        sys.exit(1)
    shutil.rmtree(rehearsal.folder)


if __name__ == "__main__":
    main()
