"""Reading settings: presets, files they name, changes over them, and a run's own record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism_nb.core.errors import UsageError
from prism_nb.core.paths import absolute_path
from prism_nb.core.presets import expand_pool, find_file, presets, protocol_values
from prism_nb.core.recipe import read_recipe_file
from prism_nb.core.recipe_checks import check_recipe
from prism_nb.core.settings import Settings
from prism_nb.core.yaml_io import read_lines, read_mapping, read_yaml

_BY_METHOD = ("recipes", "tuned_students")  # settings of single methods


def load_settings(preset: str, changes: dict[str, Any] | None = None) -> Settings:
    """Read a preset and apply changes.

    `preset` is a name or a file, `changes` are settings by flat name; a dict is merged into the
    preset's.

    Raises:
        UsageError: Anything unknown, mistyped or contradictory, before any work.
    """
    values, changes = read_preset(preset), changes or {}
    if isinstance(changes.get("methods"), list):
        values = only_methods(values, changes["methods"])
    values = merge(values, resolve_references(changes, Path()))
    return build_settings(values, where=f"preset {preset}")


def only_methods(values: dict[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """Return settings without what belongs to single methods that are not among some."""
    own = {name: values[name] for name in _BY_METHOD if isinstance(values.get(name), dict)}
    kept = {name: {m: each[m] for m in each if m in methods} for name, each in own.items()}
    return {**values, **kept}


def read_preset(preset: str) -> dict[str, Any]:
    """Return the values of a preset: of a name, or of the path of a YAML file."""
    path = find_file(presets(), preset)
    if not path.is_file():
        names = ", ".join(presets().names())
        raise UsageError(f"preset {path} does not exist; name a YAML file, or one of {names}")
    return resolve_references(read_mapping(path, where=f"preset {path}"), path.parent)


def resolve_references(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Replace names of protocols and files in settings by their content, so that a run records it.

    A protocol's values are overridden by settings given with its name. `recipes` and `class_list`
    may name files. `data_dir` becomes absolute, see `absolute_path`. Relative paths of files start
    from `folder`.
    """
    found = dict(values)
    if "protocol" in found:
        name = found["protocol"]
        if not isinstance(name, str):
            raise UsageError(f"protocol: a name is needed, got {name!r}")
        found = {**protocol_values(name), **found}
    if isinstance(found.get("class_list"), str):
        found["class_list"] = read_lines(folder / found["class_list"], where="class_list")
    if isinstance(found.get("data_dir"), str):
        found["data_dir"] = str(absolute_path(found["data_dir"]))
    if isinstance(found.get("recipes"), dict):
        found["recipes"] = {
            method: read_recipe_file(folder / recipe, method) if isinstance(recipe, str) else recipe
            for method, recipe in found["recipes"].items()
        }
    return found


def add_recipes(
    preset: str, changes: dict[str, Any], paths: Sequence[str | Path]
) -> dict[str, Any]:
    """Return changes to a preset that add the recipes of some files to its methods.

    Each method has the name of its file, without ending; the last of a name holds.
    """
    if not paths:
        return changes
    own = {Path(path).stem: read_recipe_file(path) for path in paths}
    methods = changes.get("methods", read_preset(preset).get("methods", []))
    if not isinstance(methods, list):
        raise UsageError(f"methods: a list is needed, got {methods!r}; e.g. [prism, sre2l]")
    recipes = {**changes.get("recipes", {}), **own}
    return {**changes, "methods": list(dict.fromkeys([*methods, *own])), "recipes": recipes}


def read_settings(path: Path) -> Settings:
    """Return the settings that a run has recorded in its `config.yaml`."""
    values = read_mapping(path, where=str(path))
    unknown = [name for name in values if name not in Settings.fields()]
    if unknown:
        raise UsageError(
            f"{path} has settings that are unknown to this version of the kit "
            f"({', '.join(map(str, unknown))}): another version made the run; begin a new one"
        )
    return build_settings(values, where=str(path))


def build_settings(values: dict[str, Any], *, where: str) -> Settings:
    """Build settings, and check every method's recipe with them."""
    settings = Settings.parse(expand_pool(values), where=where)
    for method in settings.methods:
        recipe = settings.recipe_of(method)
        check_recipe(method, recipe, settings.pool, settings.ipc)
    return settings


def merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return values with changes applied, entry by entry where both hold a dict."""
    merged = dict(values)
    for name, new in changes.items():
        old = values.get(name)
        merged[name] = merge(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return merged


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Parse `name=value` texts into settings; `recipe.lr=0.1` sets an entry of a dict.

    Of texts that set the same, the last one holds.
    """
    changes: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            raise UsageError(f"--set {text!r}: write name=value, e.g. --set ipc=5")
        found = read_yaml(value, where=f"--set {name}")
        for part in reversed(name.split(".")):
            found = {part: found}
        changes = merge(changes, found)
    return changes


def short_hash(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of a plain value, equal for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
