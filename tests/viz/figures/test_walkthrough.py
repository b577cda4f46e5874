"""Figures of the walk through the method: directions, sums, and what other networks say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prism_nb.synthesis.walkthrough import VARIANTS, Frame
from prism_nb.viz.figures.walkthrough import gradient_figure
from prism_nb.viz.results import RUN_RESULTS
from tests.helpers.small_run import squeezed_run


def test_cells_show_the_way_down_and_their_sum() -> None:
    first, second = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    first[0, :, 0, 0], second[0, :, 0, 0], second[0, :, 1, 1] = 4.0, -6.0, 1.0
    frame = Frame(0, torch.zeros(1, 3, 2, 2, dtype=torch.uint8), {"a": first, "b": second}, {})
    figure = gradient_figure([frame], 0, {"a": "A", "b": "B"}, "Class")
    cells = [np.array(cell.z) for cell in figure.data[1:]]
    expected = [[[-1, 0], [0, 0]], [[1, 0], [0, -0.167]], [[1, 0], [0, -0.5]]]
    for cell, values in zip(cells, expected, strict=True):
        np.testing.assert_allclose(cell, values, atol=1e-3)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["image", "A", "B", "their sum"]


def test_results_of_a_run_without_holdout_networks(tmp_path: Path) -> None:
    run = squeezed_run(tmp_path, "r", methods=["prism"], recipe={"iterations": 2})
    shares = RUN_RESULTS["gradients"](run, class_index=3).table
    assert list(shares.index) == ["logits, test_resnet", "BN, test_resnet", "BN, test_byobnet"]
    assert shares.sum().to_list() == pytest.approx([100] * shares.shape[1])
    growth = RUN_RESULTS["growth"](run, class_index=3).table
    assert growth.loc["recognised by test_resnet, of 10"].between(0, 10).all()
    assert list(growth) == list(VARIANTS.values())
