"""Benchmarks by name: `python -m benchmarks roofline student`; all of them without a name."""

from __future__ import annotations

import click

from benchmarks.common import report
from benchmarks.files import image_rows, label_rows
from benchmarks.recipes import recipe_rows
from benchmarks.stages import memory_rows, worker_rows
from benchmarks.student import student_rows
from benchmarks.synthesis import agreement_rows, network_rows, roofline_rows, shared_rows, step_rows

BENCHMARKS = {
    "synthesis_step": step_rows,
    "shared_cores": shared_rows,
    "networks": network_rows,
    "recipes": recipe_rows,
    "roofline": roofline_rows,
    "compiled_vs_eager": agreement_rows,
    "student": student_rows,
    "labels": label_rows,
    "images": image_rows,
    "memory": memory_rows,
    "workers": worker_rows,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
def main(names: tuple[str, ...]) -> None:
    """Run benchmarks, all by default; print their rows and write them to benchmarks/results."""
    for name in names or BENCHMARKS:
        report(name, BENCHMARKS[name]())


if __name__ == "__main__":
    main()
