"""Recipes: what a distillation method is, written as data over one synthesis loop."""

from prism_nb.recipes.checks import require_batches, require_pool, require_source, require_steps
from prism_nb.recipes.library import (
    differences,
    load_recipe,
    make_recipe,
    read_recipe_file,
    recipe_names,
)
from prism_nb.recipes.recipe import Names, Recipe

__all__ = [
    "Names",
    "Recipe",
    "differences",
    "load_recipe",
    "make_recipe",
    "read_recipe_file",
    "recipe_names",
    "require_batches",
    "require_pool",
    "require_source",
    "require_steps",
]
