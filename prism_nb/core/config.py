"""From presets, files and changes to settings, and where a clone keeps things."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.presets import apply_protocol, expand_pool
from prism_nb.core.recipe import (
    check_batches,
    check_pool,
    check_source,
    check_steps,
    read_recipe_file,
)
from prism_nb.core.settings import Settings
from prism_nb.core.yaml_io import read_lines, read_text, read_yaml


def short_hash(value: Any) -> str:
    """Return a short SHA-256 of a plain value, equal for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def project_root() -> Path:
    """Return the clone that holds `notebooks/presets`.

    That is `PRISM_HOME`, else the nearest folder above the working directory, else the one the
    package was installed from in editable mode.

    Raises:
        UsageError: None of them holds the notebooks.
    """
    named = os.environ.get("PRISM_HOME")
    here = Path.cwd()
    beside_package = Path(__file__).resolve().parents[2]
    for folder in [Path(named)] if named else [here, *here.parents, beside_package]:
        if (folder / "notebooks" / "presets").is_dir():
            return folder
    raise UsageError(
        f"no notebooks/presets in {named or here} or above; work inside a clone of the kit or set "
        "PRISM_HOME to one"
    )


def default_runs_dir() -> Path:
    """Return the folder of the runs: `PRISM_RUNS`, else `data/runs` of the clone."""
    named = os.environ.get("PRISM_RUNS")
    return Path(named).absolute() if named else project_root() / "data" / "runs"


def default_cache_dir() -> Path:
    """Return the folder of what can be made again: `PRISM_CACHE`, else `data/cache`."""
    named = os.environ.get("PRISM_CACHE")
    return Path(named).absolute() if named else project_root() / "data" / "cache"


def preset_names() -> list[str]:
    """Return the names of the presets in `notebooks/presets`."""
    return sorted(path.stem for path in (project_root() / "notebooks" / "presets").glob("*.yaml"))


def read_preset(preset: str) -> dict[str, Any]:
    """Return the values of a preset.

    Args:
        preset: A name from `preset_names`, or the path of a YAML file.

    Raises:
        UsageError: No such preset, or a file that is not a mapping.
    """
    path = Path(preset)
    if path.suffix not in {".yaml", ".yml"}:
        path = project_root() / "notebooks" / "presets" / f"{preset}.yaml"
        if preset not in preset_names():
            raise UsageError(f"unknown preset {preset!r}; {suggest(preset, preset_names())}")
    try:
        text = read_text(path, where=f"preset {path}")
    except UsageError as error:
        names = ", ".join(preset_names())
        raise UsageError(f"{error}; name a YAML file, or one of {names}") from None
    values = read_yaml(text, where=f"preset {path}")
    if not isinstance(values, dict):
        raise UsageError(f"preset {path} must hold lines of `name: value`")
    return resolve_references(values, path.parent)


def resolve_references(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Put what names stand for into settings, so that a run keeps it.

    A protocol's values go below the settings that it stands among, a recipe file's content where
    `recipes` names its path, a class list's where `class_list` does. `data_dir` becomes absolute,
    since a run's notebooks work elsewhere.

    Args:
        values: Settings, or changes to them.
        folder: What relative paths start from.

    Raises:
        UsageError: Unknown protocol, or a file that cannot be read or is no recipe.
    """
    values = apply_protocol(values)
    if isinstance(values.get("class_list"), str):
        names = read_lines(folder / values["class_list"], where="class_list")
        values = {**values, "class_list": names}
    if isinstance(values.get("data_dir"), str):
        values = {**values, "data_dir": str(Path(values["data_dir"]).expanduser().absolute())}
    named = values.get("recipes")
    if not isinstance(named, dict):
        return values
    inlined = {
        method: read_recipe_file(folder / recipe, method) if isinstance(recipe, str) else recipe
        for method, recipe in named.items()
    }
    return {**values, "recipes": inlined}


def add_recipes(
    preset: str, changes: dict[str, Any], paths: Sequence[str | Path]
) -> dict[str, Any]:
    """Return changes to a preset that also run the recipes of some files, beside its methods.

    Args:
        preset: A preset's name or file.
        changes: Other changes; `methods` among them replaces the preset's.
        paths: Recipe files; each method is called as its file, without ending.
    """
    if not paths:
        return changes
    own: dict[str, dict[str, Any]] = {}
    for path in paths:
        name = Path(path).stem
        values = read_recipe_file(path)
        if own.setdefault(name, values) != values:
            raise UsageError(f"two recipe files are called {name!r}; give one another name")
    methods = changes.get("methods", read_preset(preset).get("methods", []))
    if not isinstance(methods, list):
        raise UsageError(f"methods: a list is needed, got {methods!r}; e.g. [prism, sre2l]")
    recipes = changes.get("recipes", {})
    named = list(dict.fromkeys([*methods, *own]))
    return {**changes, "methods": named, "recipes": {**recipes, **own}}


def load_settings(preset: str, changes: dict[str, Any] | None = None) -> Settings:
    """Read a preset and lay changes over it.

    Args:
        preset: A preset's name or file.
        changes: Settings by flat name; a dict value is merged into the preset's dict.

    Raises:
        UsageError: Anything unknown, mistyped or contradictory, before any work.
    """
    values = merge(read_preset(preset), resolve_references(changes or {}, Path()))
    return build_settings(values, where=f"preset {preset}")


def merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Lay changes over values, entry by entry where both hold a dict."""
    merged = dict(values)
    for name, new in changes.items():
        old = values.get(name)
        merged[name] = merge(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return merged


def read_settings(path: Path) -> Settings:
    """Return the settings that a run has recorded.

    Args:
        path: Its `config.yaml`.

    Raises:
        UsageError: The file cannot be read, holds no settings, or settings that do not fit.
    """
    values = read_yaml(read_text(path, where=str(path)), where=str(path))
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: it must hold lines of `name: value`")
    unknown = [name for name in values if name not in Settings.fields()]
    if unknown:
        raise UsageError(
            f"{path} has settings that this version of the kit does not know "
            f"({', '.join(unknown)}): the run was made by an older version; begin a new run"
        )
    return build_settings(values, where=str(path))


def build_settings(values: dict[str, Any], *, where: str) -> Settings:
    """Build settings and read every method's recipe, so that mistakes surface at once.

    A pool's networks go where `teachers` is its name: beside whatever else is set, since it may
    add to more than one setting.
    """
    settings = Settings.parse(expand_pool(values), where=where)
    for method in settings.methods:
        recipe = settings.recipe_of(method)
        check_source(method, recipe)
        check_pool(method, recipe, settings.primary, settings.teachers)
        check_steps(method, recipe, settings.ipc)
        check_batches(method, recipe, settings.ipc)
    return settings


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Turn `key=value` texts into settings; `recipe.lr=0.1` reaches into a dict.

    Raises:
        UsageError: A text without `=`.
    """
    changes: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            raise UsageError(f"--set {text!r}: write name=value, e.g. --set ipc=5")
        *path, last = name.split(".")
        target = changes
        for part in path:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UsageError(f"--set {text!r}: {part} is set to a plain value as well")
        if isinstance(target.get(last), dict):
            raise UsageError(f"--set {text!r}: {last} is set in parts as well")
        target[last] = read_yaml(value, where=f"--set {name}")
    return changes
