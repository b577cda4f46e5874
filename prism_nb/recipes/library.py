"""The recipes that come with the kit, and recipes of one's own from files."""

from __future__ import annotations

import copy
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from prism_nb.errors import UsageError, suggest
from prism_nb.recipes.recipe import Recipe
from prism_nb.strict import read_mapping, read_yaml


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the kit."""
    folder = resources.files("prism_nb").joinpath("configs", "recipes")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, *overrides: dict[str, Any]) -> Recipe:
    """Read a recipe of the kit and lay changes over it, later ones last.

    Raises:
        UsageError: Unknown recipe, unknown setting or wrong value.
    """
    return Recipe.parse(_layered(_read(name), *overrides), where=f"recipe {name}")


def differences(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """Return the values of a recipe that matter and that another one does not share.

    Titles and papers are left out; so is, where nothing is optimised, all that only an
    optimisation reads.
    """
    mine, theirs = recipe.plain(), other.plain()
    matter = mine.keys() - {"title", "paper", "lacks"}
    if recipe.images == "initial":
        matter &= {"images", "init", *(_OF_SCORED if recipe.is_scored else ())}
    elif recipe.images == "imported":
        matter &= {"images", *OF_IMPORTED}
    return {name: mine[name] for name in mine if name in matter and mine[name] != theirs[name]}


OF_IMPORTED = ("source", "resize")
_OF_SCORED = ("score_most", "patch_crops", "patch_grid", "crop_min")


def read_recipe_file(path: str | Path, method: str | None = None) -> dict[str, Any]:
    """Read a recipe of one's own: the YAML of a whole recipe, or of changes to a `base`.

    Args:
        path: The file.
        method: The method that it is for; the file's name without ending where None.

    Raises:
        UsageError: It cannot be read, holds something else, or a recipe with it would be wrong.
    """
    values = read_mapping(Path(path), where=f"recipe {path}")
    make_recipe(method or Path(path).stem, values, where=f"recipe {path}")
    return values


def make_recipe(
    method: str, own: dict[str, Any], *shared: dict[str, Any], where: str | None = None
) -> Recipe:
    """Build a method's recipe.

    Args:
        method: Its name: a recipe of the kit unless `own` says otherwise.
        own: The method's own changes. A `base` names the recipe that they change; with a `title`
            and a `paper` of its own, an unknown method stands on the defaults alone.
        shared: Changes to the recipes of all methods that optimise, laid below their own; a
            method that optimises nothing has nothing that they could mean.
        where: What `own` is, for messages.

    Raises:
        UsageError: Unknown recipe, unknown setting or wrong value.
    """
    changes = dict(own)
    base = changes.pop("base", None)
    place = where or f"recipe {method}"
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{place}: base must be the name of a recipe, got {base!r}")
    if base is None and method not in recipe_names() and {"title", "paper"} <= changes.keys():
        below: dict[str, Any] = {}
    else:
        below = _read(base or method, where=place) | (
            {} if base in {None, method} else {"title": method}
        )
    if (below | changes).get("images") in {"initial", "imported"}:
        return Recipe.parse(below | changes, where=place)
    return Recipe.parse(_layered(below, *shared, changes), where=place)


def _read(name: str, *, where: str | None = None) -> dict[str, Any]:
    if name not in recipe_names():
        place = "" if where is None else f"{where}: "
        raise UsageError(
            f"{place}unknown method {name!r}; {suggest(name, recipe_names())}; a recipe of your "
            "own needs an entry in `recipes` with a `base`, or with a `title` and a `paper`"
        )
    return copy.deepcopy(_of_the_kit(name))


@lru_cache(maxsize=64)
def _of_the_kit(name: str) -> dict[str, Any]:
    """Read a recipe of the kit, once per process, since every unit asks for its method's."""
    text = resources.files("prism_nb").joinpath("configs", "recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = read_yaml(text, where=f"recipe {name}")
    return values


def _layered(*layers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for layer in layers for name, value in layer.items()}
