"""Taking over and handing on sets of images, as the command and the notebooks call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prism_nb import opening, pipeline
from prism_nb.backends import OnEvent, Outcome
from prism_nb.config import default_runs_dir, load_settings, merge
from prism_nb.data import open_dataset
from prism_nb.errors import UsageError
from prism_nb.exchange.imported import stated_ipc
from prism_nb.plans import synthesis
from prism_nb.run import Run, check_name


def import_set(
    path: str | Path,
    *,
    run_name: str,
    preset: str | None = None,
    method: str = "imported",
    runs_dir: str | Path | None = None,
    changes: dict[str, Any] | None = None,
    resize: bool = False,
    on_event: OnEvent | None = None,
) -> tuple[Run, Outcome]:
    """Make a set of images a method of a run, and take the images over at once.

    Args:
        path: Folder or zip archive; see `exchange.layouts` for what is read.
        run_name: A run. One that exists keeps its settings; a new one begins with the preset's,
            and with the images per class of the set unless `changes` say otherwise.
        preset: Settings of a new run.
        method: What the method is called.
        runs_dir: Folder of the runs; `config.default_runs_dir` where None.
        changes: Settings to change, by flat name.
        resize: Whether images of another size are fitted.
        on_event: Told of progress, beside the run's event log.

    Returns:
        The run and what was done: units found there and made now.

    Raises:
        UsageError: Anything that cannot work, found before the run is touched.
        PrismError: A unit failed; finished ones stay, and the same call continues.
    """
    source = Path(path).absolute()
    own = {"base": "imported", "source": str(source), **({"resize": True} if resize else {})}
    begun = _begun(run_name, runs_dir)
    place: dict[str, Any] = {"run_name": run_name, "runs_dir": runs_dir}
    place["preset"] = None if begun else preset
    asked = _with_method(method, own, _methods_before(place), changes or {})
    found = opening.find_run(**place, changes=asked)
    if not begun and "ipc" not in asked:
        asked["ipc"] = stated_ipc(source, open_dataset(found.settings))
    run = opening.open_run(**place, changes=asked)
    return run, _take_over(run, method, on_event)


def _begun(run_name: str, runs_dir: str | Path | None) -> bool:
    check_name(run_name)
    folder = Path(runs_dir) if runs_dir else default_runs_dir()
    return (folder / run_name / "config.yaml").is_file()


def _methods_before(place: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the methods that a run has, or its preset names, with the changes to their recipes."""
    if place["preset"] is None:
        values = opening.find_run(**place).settings.plain()
    else:
        values = load_settings(place["preset"]).plain()
    return {method: values["recipes"].get(method, {}) for method in values["methods"]}


def _with_method(
    method: str, own: dict[str, Any], before: dict[str, dict[str, Any]], changes: dict[str, Any]
) -> dict[str, Any]:
    """Lay a method over changes to settings.

    Raises:
        UsageError: Another method is called so already.
    """
    if method in before and _images_of(before[method]) != _images_of(own):
        raise UsageError(
            f"there is a method {method!r} already, with other images; give these another name "
            "(--as), or a run of their own (--run)"
        )
    methods, recipes = changes.get("methods", list(before)), changes.get("recipes", {})
    if not isinstance(methods, list):
        raise UsageError(f"methods: a list is needed, got {methods!r}; e.g. [prism, sre2l]")
    if not isinstance(recipes, dict):
        raise UsageError(f"recipes: a mapping of names is needed, got {recipes!r}")
    named = {**changes, "methods": list(dict.fromkeys([*methods, method]))}
    return merge(named, {"recipes": {method: own}})


def _images_of(recipe: dict[str, Any]) -> tuple[Any, ...]:
    """Return what decides the images of an import, but for its words."""
    return recipe.get("base"), recipe.get("source"), recipe.get("resize", False)


def _take_over(run: Run, method: str, on_event: OnEvent | None) -> Outcome:
    units = synthesis.method_units(run, method, pipeline.class_count(run))
    return pipeline.execute_units(run, "synthesis", units, on_event)
