"""A rehearsal: generated files, a plan, a run that is killed once and continued, and checks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.common import ROOT, private_bytes
from benchmarks.rehearsal.tree import make_tree
from prism_nb.core import fileio
from prism_nb.core.config import read_preset
from prism_nb.core.device import seeded
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.data.imagenet import IMAGENET_CHANNELS
from prism_nb.data.index import imagenet_wnids
from prism_nb.execution import pipeline
from prism_nb.models.weights import WeightsMetadata, to_safetensors
from prism_nb.models.zoo import architecture_of, build_network

PRESET = "imagenet1k_ipc10"
_ROLES = ("teachers", "holdout_networks", "label_teachers", "feature_networks")
_CROPS = 4  # real images that one of RDED's is made of
_MARK = "made by benchmarks.rehearsal"  # a file of this name allows the folder to be deleted
_UNITS_FIRST = 2  # units of the synthesis before the kill
Log = Callable[[str], None]


@dataclass
class Call:
    """A call of `prism-nb`: exit status (-9: killed), output, seconds and peak memory in bytes."""

    status: int
    output: str
    seconds: float
    peak_bytes: int


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
        calls: Every call of the command, by its purpose.
        written: When each file of a unit finished before the kill was written, in ns.
        missing: Units of the synthesis that were not done at the kill.
    """

    folder: Path
    classes: int = 1000
    ipc: int = 2
    image_size: int = 72
    steps: int = 2
    batch_size: int = 100
    students: tuple[str, ...] = ("resnet18",)
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    missing: int = 0

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
        return self.folder / "runs" / PRESET

    @property
    def wnids(self) -> list[str]:
        """The classes, in the order of published heads."""
        wnids = imagenet_wnids()
        return [wnids[i * len(wnids) // self.classes] for i in range(self.classes)]

    @property
    def architectures(self) -> dict[str, str]:
        """The architecture that replaces each of the preset's networks."""
        names = [name for role in _ROLES for name in read_preset(PRESET)[role]]
        return {n: self.stand_ins.get(architecture_of(n), architecture_of(n)) for n in names}

    @property
    def reversed_head(self) -> str:
        """The architecture whose head has the classes in reverse order."""
        return list(dict.fromkeys(self.architectures.values()))[1]

    def weights(self, architecture: str) -> Path:
        """Return the file of a network's weights."""
        return self.folder / "weights" / f"{architecture}.safetensors"

    def network(self, architecture: str) -> str:
        """Return the name of a network with those weights; short within the clone."""
        path = self.weights(architecture)
        path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        return f"{architecture}@{path}"

    def changes(self) -> dict[str, Any]:
        """Return the changes to the preset: files, sizes and counts."""
        preset = read_preset(PRESET)
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
            "evaluate_every": 1,
        }


def rehearse(rehearsal: Rehearsal, log: Log) -> None:
    """Make all files, run them with one kill, and run them again; `facts` checks the results.

    Raises:
        PrismError: A call failed, or the folder holds something else.
    """
    make_files(rehearsal, log)
    changes = rehearsal.changes().items()
    settings = [part for name, v in changes for part in ("--set", f"{name}={json.dumps(v)}")]
    _call(rehearsal, log, "plan", "plan", PRESET, "--quick", *settings)
    _call(rehearsal, log, "killed", "run", PRESET, *settings, kill=True)
    _note_the_kill(rehearsal)
    leave_a_part(rehearsal)
    _call(rehearsal, log, "resumed", "run", PRESET, *settings)
    _call(rehearsal, log, "repeated", "run", PRESET, *settings)
    _call(rehearsal, log, "verify", "verify", PRESET, "--clean")
    _call(rehearsal, log, "status", "status", PRESET)


def make_files(rehearsal: Rehearsal, log: Log) -> None:
    """Write the image tree and random weights; delete an earlier rehearsal.

    Raises:
        UsageError: The folder holds something else.
    """
    begin, folder = time.monotonic(), rehearsal.folder
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / _MARK).is_file():
            raise UsageError(f"{folder} is no rehearsal; name a new folder by --folder")
        shutil.rmtree(folder)
    fileio.write_text(folder / _MARK, "it may be deleted\n")
    images = make_tree(rehearsal.tree, rehearsal.wnids, train=_CROPS * rehearsal.ipc)
    for network in dict.fromkeys(rehearsal.architectures.values()):
        turn = -1 if network == rehearsal.reversed_head else 1
        path, classes = rehearsal.weights(network), rehearsal.wnids[::turn]
        write_random_weights(path, network, classes, rehearsal.image_size)
    log(f"{images} images and the weights written, {time.monotonic() - begin:.0f} s")


def write_random_weights(path: Path, architecture: str, classes: list[str], size: int) -> None:
    """Write a network with random weights for images of a size, and its head's class order."""
    with seeded(0, torch.device("cpu")):
        network = build_network(architecture, classes=len(classes), image_size=size)
    mean, std = IMAGENET_CHANNELS
    metadata = WeightsMetadata(
        mean=mean, std=std, size=size, interpolation="bilinear", classes=tuple(classes)
    )
    content = to_safetensors(network.state_dict(), metadata)
    fileio.write_bytes(path, content)


def leave_a_part(rehearsal: Rehearsal) -> None:
    """Create the files of a kill during the write of an image; few kills hit those milliseconds."""
    last = image_path("sre2l", rehearsal.classes - 1, rehearsal.ipc - 1)
    path = rehearsal.run / last
    part = path.with_name(f".{path.name}.0123abcd.part")
    fileio.write_bytes(part, b"half of an image")
    os.utime(part, (1, 1))  # old enough that no process can be writing it


def environment(rehearsal: Rehearsal) -> dict[str, str]:
    """Return the variables by which calls use this clone and the rehearsal's folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PRISM_RUNS": str(rehearsal.run.parent), "PRISM_CACHE": str(rehearsal.cache)}
    return {**os.environ, "PYTHONPATH": paths, "PRISM_HOME": str(ROOT), **own}


def _amid_synthesis(rehearsal: Rehearsal) -> bool:
    """Return whether some units of the synthesis are done and another is between two steps."""
    if not (rehearsal.run / "events" / "synthesis.jsonl").is_file():
        return False
    events = list(Run.open(rehearsal.run).events.read("synthesis"))
    if sum(event["event"] == "unit_end" for event in events) < _UNITS_FIRST:
        return False
    return events[-1]["event"] == "step" and events[-1]["step"] < events[-1]["steps"]


def _note_the_kill(rehearsal: Rehearsal) -> None:
    """Note the files of finished units, and the number of units that are not done."""
    run = Run.open(rehearsal.run)
    rehearsal.missing = pipeline.plan(run, "synthesis").missing
    for stage in ("squeeze", "synthesis"):
        for unit in pipeline.stage_units(run, stage):
            if run.units.is_done(unit):
                for path in (unit.marker, *run.units.files(unit)):
                    rehearsal.written[path] = run.file(path).stat().st_mtime_ns


def _call(rehearsal: Rehearsal, log: Log, what: str, *arguments: str, kill: bool = False) -> None:
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
        peak = 0
        try:
            while child.poll() is None:
                peak = max(peak, private_bytes([child, *_descendants(child)]))
                if kill and _amid_synthesis(rehearsal):
                    break
                time.sleep(0.05)
        finally:
            _kill_tree(child)
    output = log_file.read_text(encoding="utf-8", errors="replace")
    call = Call(child.returncode, output, time.monotonic() - begin, peak)
    rehearsal.calls[what] = call
    log(f"prism-nb {arguments[0]:<7} {what:<9} status {call.status}, {call.seconds:.0f} s")
    if call.status > 0:
        raise PrismError(f"{what}: prism-nb {arguments[0]} failed:\n{output[-2000:]}")


def _kill_tree(child: psutil.Popen) -> None:
    """Kill a process group and its descendants, as kernels have groups of their own."""
    descendants = _descendants(child)
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    for process in descendants:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()
    psutil.wait_procs(descendants, timeout=30)


def _descendants(child: psutil.Popen) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(child.children(recursive=True))
    return []
