"""Seconds per image of every recipe that optimises, at its own steps, as a plan forecasts them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prism_nb.core.config import build_settings
from prism_nb.core.recipe import RECIPES, load_recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import method_units
from prism_nb.data.index import imagenet_wnids
from prism_nb.data.registry import open_dataset
from prism_nb.execution.cost import StepTimer
from tests.helpers.image_trees import make_tree

_IPC, _CLASSES, _REAL = 10, 10, 40  # images per class, classes, and real images of each
_CASES: dict[str, dict[str, Any]] = {
    "digits, 32 px": {
        "dataset": "digits",
        "image_size": 32,
        "teachers": ["test_resnet", "test_efficientnet", "test_byobnet"],
    },
    "folder, 160 px": {
        "dataset": "folder",
        "image_size": 160,
        "teachers": ["tf_efficientnet_lite0", "mobilenetv2_100", "resnet18"],
    },
}


def recipe_rows() -> list[dict[str, Any]]:
    """Return for each case and recipe its steps, the seconds per image, and their share of PRISM's.

    A few steps of every kind are measured, with networks of random weights; the units' own
    numbers of steps and drawn networks, and the scoring of real images, make the sum.
    """
    methods = [name for name in RECIPES.names() if _optimizes(name)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tree, wnids = Path(folder) / "tree", imagenet_wnids()[:_CLASSES]
        make_tree(tree, wnids, train=_REAL, val=2, side=160)
        for case, values in _CASES.items():
            own = {} if values["dataset"] == "digits" else {"data_dir": str(tree)}
            seconds = _seconds_per_image(values | own, methods)
            rows += [
                {
                    "case": case,
                    "recipe": method,
                    "steps": load_recipe(method).iterations,
                    "seconds per image": each,
                    "of prism": each / seconds["prism"],
                }
                for method, each in seconds.items()
            ]
    return rows


def _optimizes(name: str) -> bool:
    return load_recipe(name).image_source == "optimized"


def _seconds_per_image(values: dict[str, Any], methods: list[str]) -> dict[str, float]:
    first = values["teachers"][0]
    defaults = {"primary": first, "feature_networks": [first], "students": []}
    settings = build_settings(
        {**values, **defaults, "methods": methods, "ipc": _IPC, "batch_size": _CLASSES},
        where="recipes",
    )
    run, dataset = Run(Path("none"), settings), open_dataset(settings)
    timer, images = StepTimer(settings, dataset), _CLASSES * _IPC
    return {
        method: sum(map(timer.unit_seconds, method_units(run, method, _CLASSES))) / images
        for method in methods
    }
