"""Protocols, pools and presets: named values of settings in YAML files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.text import format_value
from prism_nb.core.yaml_io import StrictModel, YamlFolder

CONFIGS = Path(__file__).parents[1] / "configs"
PROTOCOLS = YamlFolder(CONFIGS / "protocols", "protocol")
POOLS = YamlFolder(CONFIGS / "pools", "pool")
_TEXTS = {"title", "paper"}  # entries of a protocol that are not settings


def project_root() -> Path:
    """Return the clone of the kit: the folder that holds `notebooks/presets`.

    That is `PRISM_HOME`, else the nearest folder above the working directory, else the one the
    package was installed from in editable mode.

    Raises:
        UsageError: None of them holds the notebooks.
    """
    named = os.environ.get("PRISM_HOME")
    here, installed = Path.cwd(), Path(__file__).resolve().parents[2]
    for folder in [Path(named)] if named else [here, *here.parents, installed]:
        if (folder / "notebooks" / "presets").is_dir():
            return folder
    raise UsageError(
        f"no notebooks/presets in {named or here} or above; work inside a clone of the kit or set "
        "PRISM_HOME to one"
    )


def presets() -> YamlFolder:
    """Return the presets of the clone, in `notebooks/presets`."""
    return YamlFolder(project_root() / "notebooks" / "presets", "preset")


def studies() -> YamlFolder:
    """Return the studies of the clone, in `notebooks/studies`."""
    return YamlFolder(project_root() / "notebooks" / "studies", "study")


def find_file(files: YamlFolder, name: str) -> Path:
    """Return the file that a user means by a name of a folder, or by a path of a YAML file.

    Raises:
        UsageError: The folder has no such name.
    """
    path = Path(name)
    return path if path.suffix in {".yaml", ".yml"} else files.path(name)


# -- protocols -------------------------------------------------------------------------------


def protocol_metadata(name: str) -> dict[str, str]:
    """Return a protocol's `title` and the `paper` that it is from."""
    return {text: value for text, value in PROTOCOLS.read(name).items() if text in _TEXTS}


def protocol_values(name: str) -> dict[str, Any]:
    """Return the settings of a protocol, by flat name.

    Raises:
        UsageError: Unknown protocol.
    """
    return {name: value for name, value in PROTOCOLS.read(name).items() if name not in _TEXTS}


def apply_protocol(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings completed by those of the protocol that they name.

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
    """Return the settings that differ from the named protocol.

    Args:
        values: All settings of a run, plain.

    Returns:
        By the setting's name: the run's value, and the protocol's.
    """
    published = protocol_values(values["protocol"])
    return {
        name: (values[name], value) for name, value in published.items() if values[name] != value
    }


def protocol_sentence(values: dict[str, Any]) -> str:
    """Return a sentence that names a run's protocol and the settings that differ from it.

    Args:
        values: All settings of a run, plain.
    """
    sentence = f"Protocol: {protocol_metadata(values['protocol'])['title']}"
    changed = [
        f"{name} {format_value(mine)} (there {format_value(published)})"
        for name, (mine, published) in protocol_overrides(values).items()
    ]
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

    Raises:
        UsageError: Unknown pool.
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
