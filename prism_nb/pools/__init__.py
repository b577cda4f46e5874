"""Pools: lists of networks worth naming, to stand in a setting that names networks."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from prism_nb.errors import UsageError, suggest
from prism_nb.strict import read_yaml


def pool_names() -> list[str]:
    """Return the names of the pools that come with the kit."""
    folder = resources.files(__package__)
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def pool_networks(name: str) -> list[str]:
    """Return the networks of a pool.

    Raises:
        UsageError: Unknown pool.
    """
    if name not in pool_names():
        raise UsageError(
            f"teachers: a list of networks or the name of a pool is needed, got {name!r}; write "
            f"[{name}] for a network; pools: {suggest(name, pool_names())}"
        )
    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return [str(network) for network in read_yaml(text, where=f"pool {name}")]


def with_pool(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the networks of a pool where `teachers` is its name.

    Raises:
        UsageError: Unknown pool.
    """
    name = values.get("teachers")
    return {**values, "teachers": pool_networks(name)} if isinstance(name, str) else values
