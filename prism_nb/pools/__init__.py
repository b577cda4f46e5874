"""Pools: networks worth naming together, whose name may stand in the setting `teachers`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from prism_nb.errors import UsageError, suggest
from prism_nb.strict import Strict, read_yaml


class Pool(Strict):
    """The networks of a pool."""

    teachers: tuple[str, ...] = Field(description="they label and give BN statistics")
    label_only: tuple[str, ...] = Field(
        (), description="they label, and have no batch norm: observers, which no method draws"
    )

    @property
    def networks(self) -> tuple[str, ...]:
        """All of them."""
        return self.teachers + self.label_only


def pool_names() -> list[str]:
    """Return the names of the pools that come with the kit."""
    folder = resources.files("prism_nb").joinpath("configs", "pools")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_pool(name: str) -> Pool:
    """Return a pool.

    Raises:
        UsageError: Unknown pool.
    """
    if name not in pool_names():
        raise UsageError(
            f"teachers: a list of networks or the name of a pool is needed, got {name!r}; write "
            f"[{name}] for a network; pools: {suggest(name, pool_names())}"
        )
    text = resources.files("prism_nb").joinpath("configs", "pools").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return Pool.parse(read_yaml(text, where=f"pool {name}"), where=f"pool {name}")


def with_pool(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the networks of a pool where `teachers` is its name.

    Networks that only label become observers, beside those that are set, and label with the
    teachers unless `label_teachers` says who does.

    Raises:
        UsageError: Unknown pool.
    """
    name = values.get("teachers")
    if not isinstance(name, str):
        return values
    pool = read_pool(name)
    found = {**values, "teachers": list(pool.teachers)}
    if pool.label_only:
        found["observers"] = _joined(values.get("observers", []), pool.label_only)
        found["label_teachers"] = values.get("label_teachers") or list(pool.networks)
    return found


def _joined(named: Any, more: tuple[str, ...]) -> Any:
    """Return a list with some more entries; what is no list is left for whoever checks it."""
    return list(dict.fromkeys([*named, *more])) if isinstance(named, (list, tuple)) else named
