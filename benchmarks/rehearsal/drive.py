"""A rehearsal: generated files, a plan, a run that is killed once and continued, and checks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import ROOT
from benchmarks.image_tree import make_tree, write_random_weights
from prism_nb.core import fileio
from prism_nb.core.config import read_preset
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.architectures import architecture_of

_PRESET = "imagenet1k_ipc10"
_ROLES = ("teachers", "holdout_networks", "label_teachers", "feature_networks")
_STUDENT_BATCH = 50  # of the protocol, which is not followed with fewer images
_CROPS = 4  # real images that one of RDED's is made of
_MARK = "made by benchmarks.rehearsal"  # a file of this name allows the folder to be deleted
_UNITS_FIRST = 2  # units of the synthesis before the kill


@dataclass
class Rehearsal:
    """The size of a rehearsal, and its results.

    Attributes:
        folder: Holds the image tree, the weights, the cache and the run.
        classes: Number of classes; fewer than 1,000 are spread over the order.
        ipc: Images per class.
        image_size: Side of the images, in pixels.
        steps: Steps per unit of the synthesis.
        batch_size: Images per unit.
        students: Students, one seed each, in place of the preset's.
        stand_ins: Smaller architectures, by those of the preset that they replace.
        seconds: The seconds of each call of `prism-nb`, by its purpose.
    """

    folder: Path
    classes: int = 1000
    ipc: int = 2
    image_size: int = 72
    steps: int = 2
    batch_size: int = 100
    students: tuple[str, ...] = ("resnet18",)
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        """The generated images."""
        return self.folder / "imagenet"

    @property
    def cache(self) -> Path:
        """The kit's cache."""
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        """The run."""
        return self.folder / "runs" / _PRESET

    @property
    def wnids(self) -> list[str]:
        """The classes, in the order of published heads."""
        wnids = imagenet_wnids()
        return [wnids[i * len(wnids) // self.classes] for i in range(self.classes)]

    @property
    def architectures(self) -> dict[str, str]:
        """The architecture that replaces each of the preset's networks."""
        names = [name for role in _ROLES for name in read_preset(_PRESET)[role]]
        return {n: self.stand_ins.get(architecture_of(n), architecture_of(n)) for n in names}

    @property
    def reversed_head(self) -> str:
        """The architecture whose head has the classes in reverse order."""
        return list(dict.fromkeys(self.architectures.values()))[1]

    def weights(self, architecture: str) -> Path:
        """Return the file of a network's weights."""
        return self.folder / "weights" / f"{architecture}.safetensors"

    def network(self, architecture: str) -> str:
        """Return the name of a network with those weights."""
        return f"{architecture}@{self.weights(architecture)}"

    def changes(self) -> dict[str, Any]:
        """Return the changes to the preset: files, sizes and counts."""
        preset = read_preset(_PRESET)
        named = {name: self.network(network) for name, network in self.architectures.items()}
        all_classes = self.classes == len(imagenet_wnids())
        return {
            "data_dir": str(self.tree),
            **({} if all_classes else {"class_list": self.wnids}),
            **{role: [named[name] for name in preset[role]] for role in _ROLES},
            "primary": named[preset["primary"]],
            "image_size": self.image_size,
            "ipc": self.ipc,
            "batch_size": self.batch_size,
            "recipe.iterations": self.steps,
            "recipes.prism.early_late_step": int(self.ipc <= self.steps),
            "recipes.rded.mosaic_grid": 2,  # as at 224 px
            "recipes.rded.crops_per_image": 1,
            "label_epochs": 1,
            "real_per_class": self.ipc,
            "students": list(self.students),
            "student_seeds": 1,
            "student_batch": min(self.classes * self.ipc, _STUDENT_BATCH),
            "evaluate_every": 1,
        }


def rehearse(rehearsal: Rehearsal) -> None:
    """Make all files, run them with one kill, and run them again; `facts` checks the results.

    Raises:
        PrismError: A call failed, the kill came too late, or the folder holds something else.
    """
    make_files(rehearsal)
    changes = rehearsal.changes().items()
    settings = [part for name, v in changes for part in ("--set", f"{name}={json.dumps(v)}")]
    _call(rehearsal, "plan", "plan", _PRESET, "--quick", *settings)
    _call(rehearsal, "killed", "run", _PRESET, *settings, kill=True)
    _call(rehearsal, "resumed", "run", _PRESET, *settings)
    _call(rehearsal, "repeated", "run", _PRESET, *settings)
    _call(rehearsal, "verify", "verify", _PRESET, "--clean")


def make_files(rehearsal: Rehearsal) -> None:
    """Write the image tree and random weights; delete an earlier rehearsal.

    Raises:
        UsageError: The folder holds something else.
    """
    folder = rehearsal.folder
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / _MARK).is_file():
            raise UsageError(f"{folder} is no rehearsal; name a new folder by --folder")
        shutil.rmtree(folder)
    fileio.write_text(folder / _MARK, "it may be deleted\n")
    make_tree(rehearsal.tree, rehearsal.wnids, train=_CROPS * rehearsal.ipc)
    for network in dict.fromkeys(rehearsal.architectures.values()):
        turn = -1 if network == rehearsal.reversed_head else 1
        path, classes = rehearsal.weights(network), rehearsal.wnids[::turn]
        write_random_weights(path, network, classes, rehearsal.image_size)


def environment(rehearsal: Rehearsal) -> dict[str, str]:
    """Return the variables by which calls use this clone and the rehearsal's folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PRISM_RUNS": str(rehearsal.run.parent), "PRISM_CACHE": str(rehearsal.cache)}
    return {**os.environ, "PYTHONPATH": paths, "PRISM_HOME": str(ROOT), **own}


def _call(rehearsal: Rehearsal, what: str, *arguments: str, kill: bool = False) -> None:
    """Call `prism-nb`, and kill it and all its processes during the synthesis if `kill`."""
    log_file, begin = rehearsal.folder / f"{what}.log", time.monotonic()
    with log_file.open("wb") as out:
        child = psutil.Popen(
            [sys.executable, "-m", "prism_nb", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(rehearsal),
            cwd=rehearsal.folder,
            start_new_session=True,
        )
        try:
            while child.poll() is None and not (kill and _amid_synthesis(rehearsal)):
                time.sleep(0.05)
        finally:
            _kill_tree(child)
    rehearsal.seconds[what] = round(time.monotonic() - begin, 1)
    print(f"{what}: exit status {child.returncode} after {rehearsal.seconds[what]} s", flush=True)
    if child.returncode != (-signal.SIGKILL if kill else 0):
        output = log_file.read_text(encoding="utf-8", errors="replace")
        raise PrismError(f"{what} ended unexpectedly:\n{output[-2000:]}")


def _amid_synthesis(rehearsal: Rehearsal) -> bool:
    """Return whether some units of the synthesis are done and another is between two steps."""
    if not (rehearsal.run / "events" / "synthesis.jsonl").is_file():
        return False
    log = Run.open(rehearsal.run).events.read("synthesis")
    events = [event for event in log if event["event"] != "gradient"]  # which follow a step's
    if sum(event["event"] == "unit_end" for event in events) < _UNITS_FIRST:
        return False
    return events[-1]["event"] == "step" and events[-1]["step"] < events[-1]["steps"]


def _kill_tree(child: psutil.Popen) -> None:
    """Kill a process and its descendants; kernels have process groups of their own."""
    tree = [child]
    with suppress(psutil.NoSuchProcess):
        tree += child.children(recursive=True)
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()
    psutil.wait_procs(tree[1:], timeout=30)
