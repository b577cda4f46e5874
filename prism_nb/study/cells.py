"""The runs that a study is made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from prism_nb.config import Settings, check_settings, merge, read_preset
from prism_nb.recipes import make_recipe
from prism_nb.study.spec import Search, Study

# What a search needs to know is what students learn; the rest of a run is left out.
_SEARCH_STAGES = ("teachers", "synthesis", "labels", "evaluation")
_ALL_STAGES = ("teachers", "synthesis", "diversity", "labels", "evaluation")

Choice = dict[tuple[str, str], dict[str, float]]  # (search, method) -> recipe settings


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
    return {
        (name, method): _search_cell(study, name, method)
        for name, search in study.searches.items()
        for method in _searched(study, name, search)
    }


def variants(study: Study, search: str, method: str) -> dict[str, dict[str, float]]:
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
    values = _values(study, scenario.settings)
    tuned = {
        method: {**values.get("recipes", {}).get(method, {}), **choice[scenario.tuned_by, method]}
        for method in values.get("methods", ())
        if scenario.tuned_by is not None and (scenario.tuned_by, method) in choice
    }
    recipes = {**values.get("recipes", {}), **tuned}
    chosen = {**values, "replicate": replicate, "recipes": _of_methods(recipes, values)}
    return check_settings(chosen, where=f"scenario {name}")


def _search_cell(study: Study, search: str, method: str) -> Cell:
    values = _values(study, study.searches[search].settings)
    own = values.get("recipes", {}).get(method, {})
    base = {} if "base" in own or "title" in own else {"base": method}
    found = variants(study, search, method)
    recipes = {name: {**base, **own, **chosen, "title": name} for name, chosen in found.items()}
    settings = {**values, "methods": list(recipes), "recipes": recipes, "score_on": "tuning"}
    return Cell(
        name=f"search-{search}-{method}",
        settings=check_settings(settings, where=f"search {search}, method {method}"),
        stages=_SEARCH_STAGES,
    )


def _searched(study: Study, name: str, search: Search) -> list[str]:
    """Return the methods that a search is for: those of its scenarios that optimise anything."""
    methods: dict[str, None] = {}
    for scenario in study.scenarios.values():
        if scenario.tuned_by == name:
            values = _values(study, scenario.settings)
            recipes, shared = values.get("recipes", {}), values.get("recipe", {})
            for method in values.get("methods", ()):
                if make_recipe(method, recipes.get(method, {}), shared).images == "recovered":
                    methods[method] = None
    return list(methods)


def _values(study: Study, settings: dict[str, Any]) -> dict[str, Any]:
    return merge(merge(read_preset(study.preset), study.settings), settings)


def _of_methods(recipes: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the recipes of methods that this scenario does not run."""
    return {method: own for method, own in recipes.items() if method in values["methods"]}
