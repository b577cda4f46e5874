"""Coresets: scores and greedy choices against literal ones, alone and from a run's networks."""

from __future__ import annotations

from math import dist, exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.core.recipe import CORESETS
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, method_units, network_unit
from prism_nb.data.registry import open_dataset
from prism_nb.models.forgetting import forgetting_events
from prism_nb.models.pool import load_teacher
from prism_nb.synthesis.init import prepare_unit
from prism_nb.synthesis.ranking import GREEDY, el2n_scores
from tests.helpers.small_run import squeezed_run

NAME = "test_byobnet"
Points = list[tuple[float, ...]]
POINT = st.tuples(*[st.integers(-4, 4).map(float)] * 2)  # few values: many points are equal


def error_norm(logits: list[float], class_index: int) -> float:
    total = sum(exp(value) for value in logits)
    wanted = [float(j == class_index) for j in range(len(logits))]
    return sqrt(sum((exp(v) / total - y) ** 2 for v, y in zip(logits, wanted, strict=True)))


def mean(points: Points) -> list[float]:
    return [sum(axis) / len(points) for axis in zip(*points, strict=True)]


def cost(kind: str, points: Points, chosen: list[int], row: int) -> float:
    """Return what the next choice of a coreset makes least."""
    if kind == "k_center" and chosen:
        return -min(dist(points[row], points[other]) for other in chosen)
    return dist(mean(points), mean([points[other] for other in [*chosen, row]]))


def literal_choice(kind: str, points: Points, count: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < count:
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(min(left, key=lambda row: cost(kind, points, chosen, row)))
    return chosen


@given(st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=1), st.integers(0, 3))
def test_el2n_is_the_norm_of_the_error(logits: list[list[float]], class_index: int) -> None:
    expected = [error_norm(row, class_index) for row in logits]
    assert el2n_scores(np.array(logits), class_index) == pytest.approx(expected, abs=1e-12)


def test_images_of_which_a_network_is_certain_still_differ() -> None:
    scores = el2n_scores(np.array([[40, 0, 0], [50, 0, 0], [45, 0, 0]], dtype=np.float32), 0)
    assert scores == pytest.approx([exp(-x) * sqrt(6) for x in (40, 50, 45)], rel=1e-9, abs=0)


@given(st.sampled_from(sorted(GREEDY)), st.lists(POINT, min_size=1, max_size=9))
def test_each_greedy_choice_is_the_best_of_those_left(kind: str, points: Points) -> None:
    chosen = GREEDY[kind](np.array(points, dtype=np.float32), len(points))
    assert sorted(chosen) == list(range(len(points)))
    for k, row in enumerate(chosen):
        costs = {left: cost(kind, points, chosen[:k], left) for left in chosen[k:]}
        assert costs[row] == pytest.approx(min(costs.values()), abs=1e-9)


# -- runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a network that has been trained for three epochs."""
    own = {"teachers": [NAME], "primary": NAME, "squeeze_epochs": 3, "methods": list(CORESETS)}
    return squeezed_run(tmp_path_factory.mktemp("runs"), "a", **own, ipc=3, image_size=16)


def images_of(run: Run, method: str) -> dict[tuple[int, int], Tensor]:
    found: dict[tuple[int, int], Tensor] = {}
    for unit in method_units(run, method, 10):
        found |= dict(zip(batch_of(unit).members(), prepare_unit(run, unit).images, strict=True))
    return found


def literal_order(run: Run, method: str, c: int, indices: list[int]) -> list[int]:
    """Return images of a class in a coreset's order, from timm's own functions."""
    teacher, dataset = load_teacher(run, NAME), open_dataset(run.settings)
    if method == "forgetting":
        events = forgetting_events(run, NAME)
        return sorted(indices, key=lambda index: (-int(events[index]), index))
    network: Any = teacher.network
    with torch.no_grad():
        maps = network.forward_features(dataset.normalize(dataset.images("train", indices)))
        features = network.forward_head(maps, pre_logits=True)
        logits = network.head.fc(features)
    if method == "el2n":
        return sorted(indices, key=lambda i: error_norm(logits[indices.index(i)].tolist(), c))
    points = [tuple(row) for row in features.double().tolist()]
    return [indices[row] for row in literal_choice(method, points, 3)]


@pytest.mark.parametrize("method", CORESETS)
def test_image_k_is_the_kth_of_its_class_whatever_the_batches(method: str, trained: Run) -> None:
    dataset = open_dataset(trained.settings)
    found = images_of(trained, method)
    for c in (0, 7):
        order = literal_order(trained, method, c, dataset.class_indices("train", c).tolist())
        expected = dataset.normalize(dataset.images("train", order[:3]))
        assert torch.equal(torch.stack([found[c, k] for k in range(3)]), expected)
    other = {"ipc": 5, "batch_size": 7, "recipes": {method: {"batches": "cross_class"}}}
    again = images_of(Run(trained.path, trained.settings.replace(**other)), method)
    assert all(torch.equal(again[key], image) for key, image in found.items())


def test_a_recipe_may_limit_the_candidates(trained: Run) -> None:
    few = {"recipes": {method: {"max_scored_images": 3} for method in CORESETS}}
    run = Run(trained.path, trained.settings.replace(**few))
    chosen = [{i.numpy().tobytes() for i in images_of(run, m).values()} for m in CORESETS]
    assert len(chosen[0]) == 30
    assert all(each == chosen[0] for each in chosen)  # all three candidates, in any order


def test_a_network_that_was_not_counted_is_refused(trained: Run, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "b", load_settings("digits_quick", {"methods": ["forgetting"]}))
    unit, name = network_unit(run.settings, run.settings.primary), run.settings.primary
    (run.path / "w").write_bytes(b"weights")
    run.units.finish(unit, paths=["w"], record={"accuracy": 1.0})
    with pytest.raises(PrismError, match=f"run b did not count the images that '{name}' forgot"):
        forgetting_events(run, name)
