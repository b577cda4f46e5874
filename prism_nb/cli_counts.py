"""The counts of a run on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from prism_nb.errors import UsageError

if TYPE_CHECKING:
    from prism_nb.data.described import Numbers
    from prism_nb.pipeline import StagePlan
    from prism_nb.run import Run
    from prism_nb.settings import Settings

_TERA = 1e12


def echo_counts(run: Run, *, at: float | None, size: str | None) -> None:
    """Print what a run takes in operations, files and bytes.

    Args:
        run: The run, or one that could be begun.
        at: 10^12 operations per second at which hours are given; None: no hours.
        size: Numbers that stand in for the dataset, see `parse_size`.
    """
    from prism_nb.counts import count_run, count_table
    from prism_nb.data.described import describe_dataset
    from prism_nb.teachers.arithmetic import Arithmetic

    dataset = describe_dataset(run.settings, parse_size(size) if size else None)
    table = count_table(
        count_run(run, Arithmetic(dataset)), rate=None if at is None else at * _TERA
    )
    train, val = (len(dataset.labels(split)) for split in ("train", "val"))
    click.echo(
        f"{dataset.name}: {len(dataset.classes):,} classes, {train:,} training and {val:,} "
        f"held-out images, {dataset.image_size} px\n\n{table.to_string(index=False)}\n"
    )
    if at is not None:
        click.echo(f"hours at an assumed {at:g} TFLOP/s, which nothing here has measured")
    click.echo(
        "counted, not measured: FLOP of convolutions and matrix products alone; GPU GB of all "
        "tensors at once in the largest step, eager, in float32"
    )


def require_images(settings: Settings) -> None:
    """Check that a plan which measures has images to measure with.

    Raises:
        UsageError: There are none, and what plans without them.
    """
    from prism_nb.data import open_dataset
    from prism_nb.data.described import describe_dataset

    try:
        open_dataset(settings)
    except UsageError as error:
        describe_dataset(settings)  # raises the same where nothing is known of them either
        raise UsageError(
            f"{error}; or add --count, which needs no images: it counts operations, files, bytes "
            "and memory"
        ) from None


def sharing_cache(run: Run, plans: Sequence[StagePlan]) -> list[StagePlan]:
    """Return plans of which each counts what no earlier one has added to the cache."""
    from prism_nb.forecast import cache_shares

    shares = cache_shares(run, [plan.left for plan in plans])
    return [replace(plan, cache_bytes=share) for plan, share in zip(plans, shares, strict=True)]


def disk_words(plans: Sequence[StagePlan]) -> str:
    """Say what plans of all stages, with shares of the cache, write in all."""
    from prism_nb.tables import size_in_words

    cache = sum(plan.cache_bytes for plan in plans)
    total = size_in_words(cache + sum(plan.disk_bytes for plan in plans))
    return f"{total} to be written at most, {size_in_words(cache)} of it in the cache"


def petaflop_left(run: Run, plans: Sequence[StagePlan]) -> list[float]:
    """Return the 10^15 operations of the units of each stage that are still to be done."""
    from prism_nb.counts import flop_of
    from prism_nb.data import open_dataset
    from prism_nb.teachers.arithmetic import Arithmetic

    arithmetic, found = Arithmetic(open_dataset(run.settings)), []
    for plan in plans:
        found.append(round(flop_of(run, arithmetic, plan.stage, plan.left) / 1e15, 3))
    return found


def parse_size(text: str) -> Numbers:
    """Read `classes,training images,held-out images`.

    Raises:
        UsageError: It is something else.
    """
    from prism_nb.data.described import Numbers

    parts = text.replace("_", "").split(",")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise UsageError(
            f"--size {text!r}: give classes, training and held-out images, e.g. 1000,1281167,50000"
        )
    return Numbers(*map(int, parts))
