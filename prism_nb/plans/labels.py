"""The units of the relabelling: one per method, made of one file per epoch."""

from __future__ import annotations

from typing import Any

from prism_nb.config import digest
from prism_nb.plans.squeeze import network_unit
from prism_nb.plans.synthesis import method_binding, method_units
from prism_nb.run import Run
from prism_nb.settings import LabelSettings, Settings
from prism_nb.units import Unit

BLOCK = 10_000  # views that are labelled together: an ensemble gives them one scale


def units(run: Run, classes: int) -> list[Unit]:
    """Return one unit per method."""
    return [label_unit(run, method, classes) for method in run.settings.methods]


def label_unit(run: Run, method: str, classes: int) -> Unit:
    """Return the unit that labels one method's images."""
    settings = run.settings
    networks = [network_unit(settings, name) for name in settings.labellers]
    images = method_units(run, method, classes)
    return Unit(
        stage="labels",
        name=method,
        marker=f"labels/{method}/unit.json",
        binding=label_binding(settings, method, classes * settings.ipc),
        key={"method": method},
        inputs=tuple(unit.marker for unit in [*networks, *images]),
    )


def pieces(run: Run, unit: Unit, count: int) -> list[Unit]:
    """Cut the labelling of one method's images into units of some epochs each.

    Args:
        run: The run.
        unit: The unit that labels them all.
        count: The most pieces; none are cut where one would do, or nothing is stored.
    """
    epochs = len(label_paths(run.settings, unit.key["method"]))
    size = -(-epochs // max(1, count))
    begins = range(0, epochs, size or 1)
    ranges = [(begin, min(begin + size, epochs)) for begin in begins] if len(begins) > 1 else []
    return [_piece(unit, begin, end) for begin, end in ranges]


def _piece(unit: Unit, begin: int, end: int) -> Unit:
    stem = f"epochs{begin:04d}-{end - 1:04d}"
    return Unit(
        stage=unit.stage,
        name=f"{unit.name}/{stem}",
        marker=f"labels/{unit.name}/pieces/{stem}.json",
        binding=digest([unit.binding, begin, end]),
        key={**unit.key, "epochs": [begin, end]},
        inputs=unit.inputs,
        part_of=unit.name,
    )


def label_path(method: str, epoch: int) -> str:
    """Return where an epoch's labels lie in a run."""
    return f"labels/{method}/epoch_{epoch:04d}.safetensors"


def label_paths(settings: Settings, method: str) -> list[str]:
    """Return every label file of a method; none, where labels are not stored."""
    epochs = settings.label_epochs if settings.labels == "stored" else 0
    return [label_path(method, epoch) for epoch in range(epochs)]


def label_binding(settings: Settings, method: str, count: int) -> str:
    """Digest what the labels of a method's images, so many, depend on."""
    values = settings.section(LabelSettings)
    del values["label_teachers"]
    if settings.label_format != "top_k":
        del values["label_top_k"]
    bound: dict[str, Any] = {
        "images": method_binding(settings, method),
        "settings": values,
        "primary": settings.primary if settings.label_ensemble == "primary_half" else None,
        "networks": [network_unit(settings, name).binding for name in settings.labellers],
    }
    return digest({**bound, "block": BLOCK} if count > BLOCK else bound)
