"""The units of the squeeze: one per network, and one per network's convolution statistics."""

from __future__ import annotations

from prism_nb.config import digest
from prism_nb.run import Run
from prism_nb.settings import DataSettings, Settings, SqueezeSettings
from prism_nb.units import Unit, has_weights, slug

_BATCHES = ("squeeze_batch", "squeeze_shift", "squeeze_crop_min", "squeeze_flip", "squeeze_views")


def units(run: Run, classes: int) -> list[Unit]:
    """Return one unit per network of the run, then the statistics that some method asks for."""
    settings = run.settings
    wanted = dict.fromkeys(
        (network, recipe.conv_patch)
        for recipe in map(settings.recipe_of, settings.methods)
        if recipe.statistics == "bn_conv"
        for network in recipe.watched(settings.primary, settings.teachers)
    )
    return network_units(settings) + [statistics_unit(settings, *pair) for pair in wanted]


def network_units(settings: Settings) -> list[Unit]:
    """Return the units that provide the networks: the pool, then the observers."""
    return [network_unit(settings, name) for name in settings.networks]


def network_unit(settings: Settings, name: str) -> Unit:
    """Return the unit that trains one network; it does not depend on the rest of the pool.

    Of a network with weights it takes them, and depends on nothing that training does.
    """
    stem = slug(name)
    groups = (DataSettings,) if has_weights(name) else (DataSettings, SqueezeSettings)
    binding = settings.section(*groups)
    binding.pop("observers", None)
    return Unit(
        stage="teachers",
        name=name,
        marker=f"teachers/units/{stem}.json",
        binding=digest({**binding, "network": name}),
        key={"network": name, "weights": f"teachers/{stem}.safetensors"},
    )


def statistics_unit(settings: Settings, name: str, patch: int) -> Unit:
    """Return the unit that measures the inputs of a network's convolutions on the real images."""
    network = network_unit(settings, name)
    how: dict[str, object] = {"network": network.binding, "patch": patch}
    if has_weights(name):  # it depends on the squeeze by its batches alone
        how["squeeze"] = {name: getattr(settings, name) for name in _BATCHES}
    stem = f"{slug(name)}.conv{patch}"
    return Unit(
        stage="teachers",
        name=f"{name}, convolution statistics",
        marker=f"teachers/units/{stem}.json",
        binding=digest(how),
        key={"network": name, "patch": patch, "statistics": f"teachers/{stem}.safetensors"},
        inputs=(network.marker,),
    )
