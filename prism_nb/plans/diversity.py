"""The units of the diversity stage: one per method, and one for the real images beside them."""

from __future__ import annotations

from prism_nb.config import digest
from prism_nb.plans.squeeze import network_unit
from prism_nb.plans.synthesis import method_binding, method_units
from prism_nb.run import Run
from prism_nb.settings import REFERENCE as REFERENCE
from prism_nb.settings import DataSettings
from prism_nb.units import Unit


def units(run: Run, classes: int) -> list[Unit]:
    """Return the reference's unit, then one per method."""
    return [diversity_unit(run, name, classes) for name in (REFERENCE, *run.settings.methods)]


def diversity_unit(run: Run, name: str, classes: int) -> Unit:
    """Return the unit that measures a method, or the real images under `REFERENCE`."""
    settings = run.settings
    spaces = [network_unit(settings, network) for network in settings.feature_spaces]
    teachers = [network_unit(settings, network) for network in settings.teachers]
    real = name == REFERENCE
    images = [] if real else method_units(run, name, classes)
    source = (
        [settings.section(DataSettings), settings.ipc] if real else method_binding(settings, name)
    )
    return Unit(
        stage="diversity",
        name=name,
        marker=f"diversity/{name}.json",
        binding=digest(
            {
                "images": source,
                "networks": [unit.binding for unit in spaces],
                "teachers": [unit.binding for unit in teachers],
                "real_per_class": settings.real_per_class,
            }
        ),
        key={"method": name},
        inputs=tuple(dict.fromkeys(unit.marker for unit in [*spaces, *teachers, *images])),
    )
