"""The units of the squeeze: one per network."""

from __future__ import annotations

from prism_nb.config import DataSettings, Settings, SqueezeSettings, digest
from prism_nb.run import Run
from prism_nb.units import Unit, slug


def units(run: Run, classes: int) -> list[Unit]:
    """Return one unit per network of the run: the pool, then the observers."""
    return [network_unit(run.settings, name) for name in run.settings.networks]


def network_unit(settings: Settings, name: str) -> Unit:
    """Return the unit that trains one network; it does not depend on the rest of the pool."""
    stem = slug(name)
    binding = settings.section(DataSettings, SqueezeSettings)
    del binding["observers"]
    return Unit(
        stage="teachers",
        name=name,
        marker=f"teachers/units/{stem}.json",
        binding=digest({**binding, "network": name}),
        key={"network": name, "weights": f"teachers/{stem}.safetensors"},
    )
