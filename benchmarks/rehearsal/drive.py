"""The rehearsal itself: files, a plan, a run that is killed and goes on, and a look at it all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rehearsal.calls import Call, prism
from benchmarks.rehearsal.scale import PRESET, Place, Scale, assignments
from benchmarks.rehearsal.tree import make_tree
from benchmarks.rehearsal.weights import write_random
from prism_nb.core import fileio
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.execution import pipeline

_MARK = "made by benchmarks.rehearsal"  # a file of this name says that a folder may be deleted
_UNITS_FIRST = 2  # of the synthesis, before the kill
Say = Callable[[str], None]


@dataclass
class Rehearsal:
    """What has happened.

    Attributes:
        scale: What was turned down.
        place: Where everything lies.
        images: Number of generated images.
        calls: Every call of the command by what it was for.
        kept: When each file was written that a unit had finished before the kill, in ns.
        missing: Number of units of the synthesis that were not done at the kill.
    """

    scale: Scale
    place: Place
    images: int = 0
    calls: dict[str, Call] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    missing: int = 0

    @property
    def networks(self) -> list[str]:
        """Architectures whose weights were made."""
        return list(dict.fromkeys(self.scale.networks.values()))

    @property
    def reversed_head(self) -> str:
        """The one whose head has the classes in reverse order."""
        return self.networks[1]


def rehearse(scale: Scale, place: Place, say: Say) -> Rehearsal:
    """Make everything, run it with one kill, and run it again; what holds, `facts` says.

    Raises:
        PrismError: A call failed, or the folder holds something else.
    """
    found = Rehearsal(scale, place)
    make_files(found, say)
    settings = assignments(scale, place)
    # The notebooks take real steps for their plans; here it is about what can be counted.
    _call(found, say, "plan", "plan", PRESET, "--quick", *settings)
    _call(found, say, "killed", "run", PRESET, *settings, kill_when=lambda: amid_synthesis(place))
    note_the_kill(found)
    leave_a_part(found)
    _call(found, say, "resumed", "run", PRESET, *settings)
    _call(found, say, "repeated", "run", PRESET, *settings)
    _call(found, say, "verify", "verify", PRESET, "--clean")
    _call(found, say, "status", "status", PRESET)
    return found


def make_files(found: Rehearsal, say: Say) -> None:
    """Write the tree and the weights; one network's head has its classes in reverse order.

    Raises:
        UsageError: The folder holds something else.
    """
    begin, scale, place = time.monotonic(), found.scale, found.place
    clear(place.folder)
    fileio.write_text(place.folder / _MARK, "it may be deleted\n")
    found.images = make_tree(place.tree, scale.wnids, train=scale.train)
    for network in found.networks:
        order = scale.wnids[::-1] if network == found.reversed_head else scale.wnids
        write_random(place.weights(network), network, order, scale.image_size)
    say(
        f"{found.images} images of {scale.classes} classes and {len(found.networks)} networks "
        f"written, {time.monotonic() - begin:.0f} s"
    )


def clear(folder: Path) -> None:
    """Delete an earlier rehearsal.

    Raises:
        UsageError: The folder holds something else.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / _MARK).is_file():
        raise UsageError(
            f"{folder} holds something else than a rehearsal; name a new folder by --folder"
        )
    shutil.rmtree(folder)


def amid_synthesis(place: Place) -> bool:
    """Return whether some units of the synthesis are done and another is between two steps."""
    if not (place.run / "events" / "synthesis.jsonl").is_file():
        return False
    ended, last = 0, {}
    for last in Run.open(place.run).events.read("synthesis"):
        ended += last["event"] == "end"
    return ended >= _UNITS_FIRST and last["event"] == "step" and last["step"] < last["steps"]


def note_the_kill(found: Rehearsal) -> None:
    """Note which files belong to finished units, and how many units are not done."""
    run = Run.open(found.place.run)
    found.missing = pipeline.plan(run, "synthesis").missing
    for stage in ("squeeze", "synthesis"):
        for state in pipeline.plan(run, stage).states:
            if state.state == "done":
                for path in (state.unit.marker, *run.units.files(state.unit)):
                    found.kept[path] = run.file(path).stat().st_mtime_ns


def leave_a_part(found: Rehearsal) -> None:
    """Lay what a kill amid the write of an image leaves; few kills fall into those milliseconds."""
    last = image_path("sre2l", found.scale.classes - 1, found.scale.ipc - 1)
    path = found.place.run / last
    part = path.with_name(f".{path.name}.0123abcd.part")
    fileio.write_bytes(part, b"half of an image")
    os.utime(part, (1, 1))  # of an hour at which nobody is writing it any more


def _call(
    found: Rehearsal,
    say: Say,
    what: str,
    *arguments: str,
    kill_when: Callable[[], bool] | None = None,
) -> None:
    call = prism(found.place, what, *arguments, kill_when=kill_when)
    found.calls[what] = call
    say(f"prism-nb {arguments[0]:<7} {what:<9} status {call.status}, {call.seconds:.0f} s")
    if call.status > 0:
        raise PrismError(f"{what}: prism-nb {arguments[0]} failed:\n{call.output[-2000:]}")
