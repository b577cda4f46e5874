"""Protocols: how the papers label images and train students, as named values of settings."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from prism_nb.errors import UsageError, suggest
from prism_nb.strict import read_yaml
from prism_nb.words import value_words

_WORDS = {"title", "paper"}


def protocol_names() -> list[str]:
    """Return the names of the protocols that come with the kit."""
    folder = resources.files("prism_nb").joinpath("configs", "protocols")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def protocol_words(name: str) -> dict[str, str]:
    """Return a protocol's `title` and the `paper` that it is from."""
    return {word: value for word, value in _read(name).items() if word in _WORDS}


def protocol_values(name: str) -> dict[str, Any]:
    """Return the settings that a protocol stands for, by flat name.

    Raises:
        UsageError: Unknown protocol.
    """
    return {setting: value for setting, value in _read(name).items() if setting not in _WORDS}


def with_protocol(values: dict[str, Any]) -> dict[str, Any]:
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


def departures(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
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
    sentence = f"Protocol: {protocol_words(values['protocol'])['title']}"
    changed = [
        f"{name} {value_words(mine)} (there {value_words(published)})"
        for name, (mine, published) in departures(values).items()
    ]
    return f"{sentence}, but {', '.join(changed)}." if changed else f"{sentence}."


def _read(name: str) -> dict[str, Any]:
    if name not in protocol_names():
        raise UsageError(f"unknown protocol {name!r}; {suggest(name, protocol_names())}")
    text = resources.files("prism_nb").joinpath("configs", "protocols").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = read_yaml(text, where=f"protocol {name}")
    return values
