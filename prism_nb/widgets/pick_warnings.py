"""What to beware of in a pick of teachers, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prism_nb.catalogue import family_of
from prism_nb.settings import Settings
from prism_nb.teachers.networks import architecture_of


def warnings_of(settings: Settings, bn_layers: Mapping[str, int]) -> list[str]:
    """Return what may be unwanted though it is possible, a sentence each.

    Args:
        settings: A pick that can be used.
        bn_layers: Number of BN layers of each network of the pool.
    """
    return [
        *_without_bn(settings.teachers, bn_layers),
        *_same_family(settings.primary, settings.teachers),
        *_measured_by_the_pool(settings),
    ]


def _without_bn(pool: Sequence[str], bn_layers: Mapping[str, int]) -> list[str]:
    return [
        f"{name} has no BN layers: it can label, but as a BN teacher it gives no statistics."
        for name in pool
        if bn_layers[name] == 0
    ]


def _same_family(primary: str, pool: Sequence[str]) -> list[str]:
    others = [name for name in pool if name != primary]
    if not others:
        return ["The primary is alone: no other architecture brings statistics of its own."]
    family = family_of(primary)
    same = [name for name in others if family_of(name) == family]
    if not same:
        return []
    are, share = ("is", "shares") if len(same) == 1 else ("are", "share")
    only = "; no other family is in the pool" if len(same) == len(others) else ""
    return [
        f"{_listed(same)} {are} of the primary's family ({family}), and so {share} its "
        f"architectural prior{only}."
    ]


def _measured_by_the_pool(settings: Settings) -> list[str]:
    """Name networks that measure the images and also made them, as such or by architecture."""
    teachers = {architecture_of(name): name for name in settings.teachers}
    found = []
    for name in settings.feature_spaces:
        if name in settings.teachers:
            found.append(
                f"{name} measures diversity and is in the pool: images that were fitted to a "
                "network look better to it than to others."
            )
        elif architecture_of(name) in teachers:
            found.append(
                f"{name} measures diversity and has the architecture of "
                f"{teachers[architecture_of(name)]} in the pool; one apart measures more fairly."
            )
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
