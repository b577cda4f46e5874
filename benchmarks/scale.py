"""What large runs take, counted: the table of docs/scale.md and the heads of the presets.

Nothing is measured here, so the lines are the same on every machine; a test holds the page and the
presets to them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism_nb import pipeline
from prism_nb.artifacts.sizes import label_bytes
from prism_nb.counts import Count, count_run
from prism_nb.data.described import DescribedDataset, Numbers, describe_dataset
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.teachers.arithmetic import Arithmetic

RATE = 12e12  # operations per second; docs/scale.md says where it is from
PRESETS = ("imagenet1k_ipc1", "imagenet1k_ipc10", "imagenet1k_ipc50", "imagenet1k_ipc100")
_IMAGENET_21K = Numbers(10_450, 11_060_223, 522_500)  # winter21, processed (arXiv 2104.10972)


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
    numbers: Numbers | None = None


SCALES = (
    *(Scale("ImageNet-1K", ipc) for ipc in (1, 10, 50, 200)),
    *(Scale("ImageNet-21K", ipc, _IMAGENET_21K) for ipc in (1, 10, 20)),
)
HEAD = (
    "| | IPC | units | synthesis | labels | nine students | hours | images "
    "| labels: fp16 / int8 / top 10 | files |"
)


def scale_rows() -> list[dict[str, Any]]:
    """Print the table and the presets' heads, and return their lines."""
    known = counter()
    table = [HEAD, "|" + "---|" * (HEAD.count("|") - 1), *scale_lines(known)]
    heads = {preset: head_lines(preset, known) for preset in PRESETS}
    for line in table:
        print(line)
    for preset, lines in heads.items():
        print("", preset, *lines, sep="\n")
    return [{"table": table, "heads": heads}]


def counter() -> Arithmetic:
    """Return what counts the networks of ImageNet-1K."""
    return Arithmetic(describe_dataset(_run("imagenet1k_ipc1", {}).settings))


def scale_lines(known: Arithmetic, scales: Sequence[Scale] = SCALES) -> list[str]:
    """Return a line of the table for each scale; `known` counts those of ImageNet-1K."""
    return [_line(scale, known) for scale in scales]


def head_lines(preset: str, arithmetic: Arithmetic) -> list[str]:
    """Return what a preset's head says of its costs."""
    counts = count_run(_run(preset, {}), arithmetic)
    flop, disk = sum(c.flop for c in counts), sum(c.bytes for c in counts)
    prism = sum(c.flop for c in counts if (c.stage, c.method) == ("synthesis", "prism"))
    labels = sum(c.bytes for c in counts if c.stage == "labels")
    files = sum(c.files for c in counts)
    return [
        f"# Counted by `prism-nb plan {preset} --count --at {RATE / 1e12:.0f}` (docs/scale.md):",
        f"# GPU-hours: {flop / RATE / 3600:,.0f} at an assumed {RATE / 1e12:.0f} TFLOP/s, of which "
        f"PRISM's images {prism / RATE / 3600:,.1f}; {flop / 1e15:,.0f} PFLOP.",
        f"# Disk: {disk / 1e9:,.0f} GB, of which labels {labels / 1e9:,.1f}, in {files:,} files.",
    ]


def _line(scale: Scale, known: Arithmetic) -> str:
    run = _run("imagenet1k_ipc50", {"methods": ["prism"], "ipc": scale.ipc})
    if scale.numbers is not None:
        size = run.settings.image_size
        known = Arithmetic(DescribedDataset(scale.title, scale.numbers, size))
    counts = count_run(run, known)
    stages = {c.stage: c for c in counts if c.method == "prism"}
    flop = [stages[name].flop for name in ("synthesis", "labels", "evaluation")]
    cells = [
        scale.title,
        scale.ipc,
        f"{stages['synthesis'].units:,}",
        *(_exa(each) for each in flop),
        " + ".join(f"{each / RATE / 3600:,.1f}" for each in flop),
        f"{stages['synthesis'].bytes / 1e9:,.1f} GB",
        _forms(run.settings, len(known.dataset.classes)) + " GB",
        f"{_files(counts):,}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _exa(flop: float) -> str:
    return f"{flop / 1e18:,.3f} EFLOP"


def _forms(settings: Settings, classes: int) -> str:
    forms = [settings.model_copy(update={"label_format": f}) for f in ("fp16", "int8", "top_k")]
    images = classes * settings.ipc
    return " / ".join(f"{label_bytes(form, images, classes) / 1e9:,.1f}" for form in forms)


def _files(counts: Sequence[Count]) -> int:
    return sum(c.files for c in counts)


def _run(preset: str, changes: dict[str, Any]) -> Run:
    return pipeline.find_run(preset=preset, changes=changes, runs_dir=tempfile.gettempdir())
