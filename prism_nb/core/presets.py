"""Protocols: how the papers label images and train students, as named values of settings."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.text import format_value
from prism_nb.core.yaml_io import StrictModel, read_yaml

_WORDS = {"title", "paper"}


def protocol_names() -> list[str]:
    """Return the names of the protocols that come with the kit."""
    folder = resources.files("prism_nb").joinpath("configs", "protocols")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def protocol_metadata(name: str) -> dict[str, str]:
    """Return a protocol's `title` and the `paper` that it is from."""
    return {word: value for word, value in _read(name).items() if word in _WORDS}


def protocol_values(name: str) -> dict[str, Any]:
    """Return the settings that a protocol stands for, by flat name.

    Raises:
        UsageError: Unknown protocol.
    """
    return {setting: value for setting, value in _read(name).items() if setting not in _WORDS}


def apply_protocol(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those of the protocol that they name laid below them.

    Raises:
        UsageError: Unknown protocol.
    """
    if "protocol" not in values:
        return values
    name = values["protocol"]
    if not isinstance(name, str):
        raise UsageError(f"protocol: a name is needed, got {name!r}")
    return {**protocol_values(name), **values}


def protocol_overrides(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return where settings depart from the protocol that they name.

    Args:
        values: All settings of a run, plain.

    Returns:
        By the setting's name: what the run has, and what the protocol says.
    """
    published = protocol_values(values["protocol"])
    return {
        name: (values[name], value) for name, value in published.items() if values[name] != value
    }


def protocol_sentence(values: dict[str, Any]) -> str:
    """Say by whose protocol students are taught, and where settings depart from it.

    Args:
        values: All settings of a run, plain.
    """
    sentence = f"Protocol: {protocol_metadata(values['protocol'])['title']}"
    changed = [
        f"{name} {format_value(mine)} (there {format_value(published)})"
        for name, (mine, published) in protocol_overrides(values).items()
    ]
    return f"{sentence}, but {', '.join(changed)}." if changed else f"{sentence}."


def _read(name: str) -> dict[str, Any]:
    if name not in protocol_names():
        raise UsageError(f"unknown protocol {name!r}; {suggest(name, protocol_names())}")
    text = (
        resources.files("prism_nb")
        .joinpath("configs", "protocols")
        .joinpath(f"{name}.yaml")
        .read_text(encoding="utf-8")
    )
    values: dict[str, Any] = read_yaml(text, where=f"protocol {name}")
    return values


class Pool(StrictModel):
    """The networks of a pool."""

    teachers: tuple[str, ...] = Field(description="they label and give BN statistics")
    label_only: tuple[str, ...] = Field(
        (),
        description="they label, and have no batch norm: holdout_networks, which no method draws",
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
    text = (
        resources.files("prism_nb")
        .joinpath("configs", "pools")
        .joinpath(f"{name}.yaml")
        .read_text(encoding="utf-8")
    )
    return Pool.parse(read_yaml(text, where=f"pool {name}"), where=f"pool {name}")


def expand_pool(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the networks of a pool where `teachers` is its name.

    Networks that only label become holdout_networks, beside those that are set, and label with the
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
        found["holdout_networks"] = _joined(values.get("holdout_networks", []), pool.label_only)
        found["label_teachers"] = values.get("label_teachers") or list(pool.networks)
    return found


def _joined(named: Any, more: tuple[str, ...]) -> Any:
    """Return a list with some more entries; what is no list is left for whoever checks it."""
    return list(dict.fromkeys([*named, *more])) if isinstance(named, (list, tuple)) else named
