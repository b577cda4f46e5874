"""What large runs take, counted: the table of docs/scale.md and the heads of the presets.

Nothing is measured here, so the lines are the same on every machine; a test holds the page and the
presets to them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.data.registry import DatasetSizes, ShapeOnlyDataset, dataset_sizes
from prism_nb.evaluation.label_store import label_bytes
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution.cost import CostEstimate, estimate_run
from prism_nb.execution.forecast import NetworkCosts

RATE = 12e12  # operations per second; docs/scale.md says where it is from
_IMAGENET = ("imagenet1k_ipc1", "imagenet1k_ipc10", "imagenet1k_ipc50", "imagenet1k_ipc100")
PRESETS = (*_IMAGENET, "imagenette", "tiny_imagenet", "cifar10", "cifar100")
_IMAGENET_21K = DatasetSizes(10_450, 11_060_223, 522_500)  # winter21, processed (arXiv 2104.10972)


@dataclass(frozen=True)
class Scale:
    """A row of the table: PRISM alone.

    Attributes:
        title: Name of the dataset.
        ipc: Images per class.
        numbers: Size of the dataset; None: ImageNet-1K's.
    """

    title: str
    ipc: int
    numbers: DatasetSizes | None = None


SCALES = (
    *(Scale("ImageNet-1K", ipc) for ipc in (1, 10, 50, 200)),
    *(Scale("ImageNet-21K", ipc, _IMAGENET_21K) for ipc in (1, 10, 20)),
)
HEAD = (
    "| | IPC | units | synthesis | labels | nine students | hours "
    "| GPU memory: synthesis / student | images | labels: fp16 / int8 / top 10 | files |"
)


def scale_rows() -> list[dict[str, Any]]:
    """Print the table and the presets' heads, and return their lines."""
    known = counter()
    table = [HEAD, "|" + "---|" * (HEAD.count("|") - 1), *scale_lines(known)]
    heads = {p: head_lines(p, known if p in _IMAGENET else counter(p)) for p in PRESETS}
    for line in table:
        print(line)
    for preset, lines in heads.items():
        print("", preset, *lines, sep="\n")
    return [{"table": table, "heads": heads}]


def counter(preset: str = "imagenet1k_ipc1") -> NetworkCosts:
    """Return what counts the networks of a preset; all of ImageNet-1K may share one."""
    return NetworkCosts(dataset_sizes(_run(preset, {}).settings))


def scale_lines(known: NetworkCosts, scales: Sequence[Scale] = SCALES) -> list[str]:
    """Return a line of the table for each scale; `known` counts those of ImageNet-1K."""
    return [_line(scale, known) for scale in scales]


def head_lines(preset: str, arithmetic: NetworkCosts) -> list[str]:
    """Return what a preset's head says of its costs."""
    counts = estimate_run(_run(preset, {}), arithmetic)
    flop, disk = sum(c.flop for c in counts), sum(c.bytes for c in counts)
    prism = sum(c.flop for c in counts if (c.stage, c.method) == ("synthesis", "prism"))
    labels = sum(c.bytes for c in counts if c.stage == "relabel")
    files, rate = sum(c.files for c in counts), f"{RATE / 1e12:.0f}"
    return [
        f"# Counted by `prism-nb plan {preset} --count --at {rate}`, not measured (docs/scale.md):",
        f"# GPU-hours: {_short(flop / RATE / 3600)} at an assumed {rate} TFLOP/s, of which PRISM's "
        f"images {prism / RATE / 3600:,.2g}; {flop / 1e15:,.0f} PFLOP.",
        f"# Disk: {_short(disk / 1e9)} GB, of which labels {_short(labels / 1e9)}, in {files:,} "
        "files.",
        f"# GPU memory: {_memory(counts)}.",
    ]


def _memory(counts: Sequence[CostEstimate]) -> str:
    words = {"teachers": "to train a network", "synthesis": "in the synthesis"}
    words["evaluation"] = "to train a student"
    most = {stage: max(c.memory for c in counts if c.stage == stage) for stage in words}
    return ", ".join(f"{_short(most[s] / 1e9)} GB {words[s]}" for s in words if most[s])


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:,.1f}"


def _line(scale: Scale, known: NetworkCosts) -> str:
    run = _run("imagenet1k_ipc50", {"methods": ["prism"], "ipc": scale.ipc})
    if scale.numbers is not None:
        size = run.settings.image_size
        known = NetworkCosts(ShapeOnlyDataset(scale.title, scale.numbers, size))
    counts = estimate_run(run, known)
    stages = {c.stage: c for c in counts if c.method == "prism"}
    flop = [stages[name].flop for name in ("synthesis", "labels", "evaluation")]
    cells = [
        scale.title,
        scale.ipc,
        f"{stages['synthesis'].units:,}",
        *(_exa(each) for each in flop),
        " + ".join(f"{each / RATE / 3600:,.1f}" for each in flop),
        f"{stages['synthesis'].memory / 1e9:,.1f} / {stages['evaluation'].memory / 1e9:,.1f} GB",
        f"{stages['synthesis'].bytes / 1e9:,.1f} GB",
        _forms(run.settings, len(known.dataset.classes)) + " GB",
        f"{_files(counts):,}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _exa(flop: float) -> str:
    return f"{flop / 1e18:,.3f} EFLOP"


def _forms(settings: Settings, classes: int) -> str:
    forms = [settings.replace(label_format=f) for f in ("fp16", "int8", "top_k")]
    images = classes * settings.ipc
    return " / ".join(f"{label_bytes(form, images, classes) / 1e9:,.1f}" for form in forms)


def _files(counts: Sequence[CostEstimate]) -> int:
    return sum(c.files for c in counts)


def _run(preset: str, changes: dict[str, Any]) -> Run:
    return open_run_module.load_run(preset=preset, changes=changes, runs_dir=tempfile.gettempdir())
