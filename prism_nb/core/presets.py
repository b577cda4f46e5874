"""Protocols, pools and presets: named values of settings in YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.paths import project_root
from prism_nb.core.text import format_value
from prism_nb.core.yaml_io import StrictModel, YamlFolder

CONFIGS = Path(__file__).parents[1] / "configs"
PROTOCOLS = YamlFolder(CONFIGS / "protocols", "protocol")
POOLS = YamlFolder(CONFIGS / "pools", "pool")
_TEXTS = {"title", "paper", "deviations"}  # entries of a protocol that are not settings


def presets() -> YamlFolder:
    """Return the presets of the clone, in `notebooks/presets`."""
    return YamlFolder(project_root() / "notebooks" / "presets", "preset")


def studies() -> YamlFolder:
    """Return the studies of the clone, in `notebooks/studies`."""
    return YamlFolder(project_root() / "notebooks" / "studies", "study")


def find_file(files: YamlFolder, name: str) -> Path:
    """Return the file that a user means by a name of a folder, or by a path of a YAML file."""
    path = Path(name)
    return path if path.suffix in {".yaml", ".yml"} else files.path(name)


# -- protocols -------------------------------------------------------------------------------


def protocol_metadata(name: str) -> dict[str, str]:
    """Return a protocol's `title`, the `paper` that it is from and, if any, its `deviations`."""
    return {text: value for text, value in PROTOCOLS.read(name).items() if text in _TEXTS}


def protocol_values(name: str) -> dict[str, Any]:
    """Return the settings of a protocol, by flat name."""
    return {name: value for name, value in PROTOCOLS.read(name).items() if name not in _TEXTS}


def protocol_sentence(values: dict[str, Any]) -> str:
    """Return a sentence that names the protocol of some settings and those that differ from it."""
    sentence = f"Protocol: {protocol_metadata(values['protocol'])['title']}"
    changed = [
        f"{name} {format_value(values[name])} (there {format_value(published)})"
        for name, published in protocol_values(values["protocol"]).items()
        if values[name] != published
    ]
    for method, own in values["tuned_students"].items():
        changed += [f"{name} {format_value(value)} for {method}" for name, value in own.items()]
    return f"{sentence}, but {', '.join(changed)}." if changed else f"{sentence}."


# -- pools -----------------------------------------------------------------------------------


class Pool(StrictModel):
    """The networks of a pool."""

    teachers: tuple[str, ...] = Field(description="networks that label and give BN statistics")
    label_only: tuple[str, ...] = Field(
        (), description="networks without batch norm that label: holdout networks of the run"
    )


def expand_pool(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the networks of a pool where `teachers` is its name.

    Networks that only label are added to `holdout_networks`, and to `label_teachers` unless these
    are set.
    """
    name = values.get("teachers")
    if not isinstance(name, str):
        return values
    if name not in POOLS.names():
        raise UsageError(
            f"teachers: a list of networks or the name of a pool is needed, got {name!r}; write "
            f"[{name}] for a network; pools: {suggest(name, POOLS.names())}"
        )
    pool = Pool.parse(POOLS.read(name), where=f"pool {name}")
    found = {**values, "teachers": list(pool.teachers)}
    held_out = values.get("holdout_networks", [])
    if pool.label_only and isinstance(held_out, list | tuple):  # else `Settings` refuses it
        found["holdout_networks"] = list(dict.fromkeys([*held_out, *pool.label_only]))
        named = values.get("label_teachers")
        found["label_teachers"] = named or [*pool.teachers, *pool.label_only]
    return found
