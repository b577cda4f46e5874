"""The runs that a study is made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from prism_nb.config import check_settings, merge, read_preset
from prism_nb.data import with_content
from prism_nb.errors import UsageError, suggest
from prism_nb.recipes import make_recipe
from prism_nb.settings import Settings, SynthesisSettings
from prism_nb.study.spec import Study, Value

# What a search needs to know is what students learn; the rest of a run is left out.
_SEARCH_STAGES = ("teachers", "synthesis", "labels", "evaluation")
_ALL_STAGES = ("teachers", "synthesis", "diversity", "labels", "evaluation")

Choice = dict[tuple[str, str], dict[str, Value]]  # (search, method) -> recipe settings


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: The run's name.
        settings: Its settings.
        stages: The stages that it goes through, in order.
    """

    name: str
    settings: Settings
    stages: tuple[str, ...]


def search_cells(study: Study) -> dict[tuple[str, str], Cell]:
    """Return the runs of all searches, one per search and method, by both names.

    A run's methods are the method with each combination of the grid; see `variants`.
    """
    cells = {
        (name, method): _search_cell(study, name, method)
        for name in study.searches
        for method in _searched(study, name)
    }
    names = [cell.name for cell in cells.values()]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two searches would share the folder {name}; rename one of them")
    return cells


def variants(study: Study, search: str, method: str) -> dict[str, dict[str, Value]]:
    """Return a search's combinations of values, by the name that a method has with them."""
    grid = study.searches[search].grid
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {f"{method}-{place}": values for place, values in enumerate(combinations)}


def scenario_cells(study: Study, choice: Choice) -> dict[tuple[str, int], Cell]:
    """Return the runs of all scenarios, by scenario and replicate.

    Args:
        study: The study.
        choice: What the searches chose; nothing is laid over a method that is not in it.
    """
    _refuse_recipes_of_nobody(study)
    return {
        (name, replicate): Cell(
            name=f"{name}-{replicate}",
            settings=_scenario_settings(study, name, replicate, choice),
            stages=_ALL_STAGES,
        )
        for replicate in range(study.replicates)
        for name in study.scenarios
    }


def _scenario_settings(study: Study, name: str, replicate: int, choice: Choice) -> Settings:
    scenario = study.scenarios[name]
    values = _values(study, scenario.settings, where=f"scenario {name}")
    tuned = {
        method: {**values.get("recipes", {}).get(method, {}), **choice[scenario.tuned_by, method]}
        for method in values["methods"]
        if scenario.tuned_by is not None and (scenario.tuned_by, method) in choice
    }
    recipes = {**values.get("recipes", {}), **tuned}
    chosen = {**values, "replicate": replicate, "recipes": _of_methods(recipes, values)}
    return with_content(check_settings(chosen, where=f"scenario {name}"))


def _search_cell(study: Study, search: str, method: str) -> Cell:
    place = f"search {search}, method {method}"
    values = _values(study, study.searches[search].settings, where=place)
    own = values.get("recipes", {}).get(method, {})
    base = {} if "base" in own or "title" in own else {"base": method}
    found = variants(study, search, method)
    recipes = {name: {**base, **own, **chosen, "title": name} for name, chosen in found.items()}
    settings = {**values, "methods": list(recipes), "recipes": recipes, "score_on": "tuning"}
    return Cell(
        name=f"search-{search}-{method}",
        settings=with_content(check_settings(settings, where=place)),
        stages=_SEARCH_STAGES,
    )


def _searched(study: Study, name: str) -> list[str]:
    """Return the methods that a search is for: those of its scenarios that optimise anything."""
    methods: dict[str, None] = {}
    for scenario in study.scenarios.values():
        if scenario.tuned_by == name:
            values = _values(study, scenario.settings, where=f"search {name}")
            recipes, shared = values.get("recipes", {}), values.get("recipe", {})
            for method in values["methods"]:
                if make_recipe(method, recipes.get(method, {}), shared).images == "recovered":
                    methods[method] = None
    return list(methods)


def _values(study: Study, settings: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Lay settings over the study's, checked as far as what follows relies on their types."""
    values = merge(merge(read_preset(study.preset), study.settings), settings)
    about_methods = {k: v for k, v in values.items() if k in SynthesisSettings.model_fields}
    parsed = SynthesisSettings.parse(about_methods, where=where)
    return {**values, "methods": list(parsed.methods)}


def _refuse_recipes_of_nobody(study: Study) -> None:
    """Refuse a study's recipe of a method that no scenario runs: a misspelt name, most likely."""
    methods: dict[str, None] = {}
    for name, scenario in study.scenarios.items():
        values = _values(study, scenario.settings, where=f"scenario {name}")
        methods |= dict.fromkeys(values["methods"])
    for method in study.settings.get("recipes", {}):
        if method not in methods:
            raise UsageError(
                f"settings.recipes: no scenario runs {method!r}; {suggest(method, methods)}"
            )


def _of_methods(recipes: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the recipes of methods that this scenario does not run."""
    return {method: own for method, own in recipes.items() if method in values["methods"]}
