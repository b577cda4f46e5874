"""The units of the synthesis: one batch of one method each."""

from __future__ import annotations

from functools import partial

from prism_nb.config import digest
from prism_nb.plans.batches import Batch, class_major, class_wise, cross_class
from prism_nb.plans.squeeze import network_unit, statistics_unit
from prism_nb.recipes.library import OF_IMPORTED
from prism_nb.run import Run
from prism_nb.settings import DataSettings, Settings
from prism_nb.units import Unit

_LAYOUTS = {"cross_class": cross_class, "class_wise": class_wise, "class_major": class_major}
_WORDS = {"title", "paper", "lacks"}


def units(run: Run, classes: int) -> list[Unit]:
    """Return the units of every method of the run."""
    return [unit for method in run.settings.methods for unit in method_units(run, method, classes)]


def method_units(run: Run, method: str, classes: int) -> list[Unit]:
    """Return the units of one method."""
    settings = run.settings
    binding = method_binding(settings, method)
    inputs = tuple(unit.marker for unit in _teacher_units(settings, method))
    return [
        Unit(
            stage="synthesis",
            name=f"{method}/{batch.name}",
            marker=f"synthesis/{method}/units/{batch.name}.json",
            binding=binding,
            key={"method": method, "slots": batch.slots, "classes": batch.classes},
            inputs=inputs,
        )
        for batch in method_batches(settings, method, classes)
    ]


def method_batches(settings: Settings, method: str, classes: int) -> list[Batch]:
    """Return the batches of a method, one per unit."""
    recipe = settings.recipe_of(method)
    form = partial(_LAYOUTS[recipe.batches], share_slots=not recipe.early_late_step)
    return form(classes, settings.ipc, settings.batch_size)


def batch_of(unit: Unit) -> Batch:
    """Return the batch that a synthesis unit makes."""
    return Batch(tuple(unit.key["slots"]), tuple(unit.key["classes"]))


def image_path(method: str, class_index: int, slot: int) -> str:
    """Return where an image lies in a run, so that ImageFolder finds classes in order."""
    return f"synthesis/{method}/images/{class_index:05d}/{class_index:05d}_{slot:04d}.png"


def steering_networks(settings: Settings, method: str) -> tuple[str, ...]:
    """Return every network that may take part in a method's synthesis, the primary first."""
    return settings.recipe_of(method).networks(settings.primary, settings.teachers)


def watched_networks(settings: Settings, method: str) -> tuple[str, ...]:
    """Return the networks whose statistics a method may read."""
    return settings.recipe_of(method).watched(settings.primary, settings.teachers)


def chosen_engine(run: Run) -> str:
    """Return the engine of a run: as set, else as decided, else `eager`."""
    if run.settings.engine != "auto":
        return run.settings.engine
    decided = run.manifest().get("engine")
    choice = decided.get("choice") if isinstance(decided, dict) else None
    return "compiled" if choice == "compiled" else "eager"


def _teacher_units(settings: Settings, method: str) -> list[Unit]:
    """Return the units whose files a method's synthesis reads."""
    units = [network_unit(settings, name) for name in steering_networks(settings, method)]
    recipe = settings.recipe_of(method)
    if recipe.statistics == "bn_conv":
        units += [
            statistics_unit(settings, name, recipe.conv_patch)
            for name in watched_networks(settings, method)
        ]
    return units


def method_binding(settings: Settings, method: str) -> str:
    """Digest what a method's images depend on, and nothing else."""
    recipe = settings.recipe_of(method)
    # What only an import reads is left out elsewhere, where it could decide nothing.
    silent = _WORDS if recipe.images == "imported" else _WORDS | set(OF_IMPORTED)
    return digest(
        {
            "method": method,
            "recipe": {k: v for k, v in recipe.plain().items() if k not in silent},
            "data": settings.section(DataSettings),
            "layout": [settings.ipc, settings.batch_size, settings.replicate],
            "precision": settings.precision,
            "roles": recipe.roles(settings.primary, settings.teachers),
            "networks": [unit.binding for unit in _teacher_units(settings, method)],
        }
    )
