"""Memory that is counted on tensors without values, beside what an allocator hands out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import ImageBatch
from prism_nb.data.registry import DatasetSizes, ShapeOnlyDataset
from prism_nb.execution import cost as evaluation
from prism_nb.execution import cost as teachers
from prism_nb.execution.cost import StepPeakMemory, StepTimer, count_table, estimate_run
from prism_nb.execution.forecast import NetworkCosts, peak_bytes
from prism_nb.models.zoo import build_network
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective

TOLERANCE = 0.1  # the scratch of the CPU's convolutions, which is no tensor's


def handed_out(work: Callable[[], object]) -> float:
    """Return the most bytes that PyTorch's allocator has handed out at once beside the first."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, size in steps:
        now += size
        most = max(most, now)
    return float(most)


def settings_of(name: str, size: int, **changes: Any) -> Settings:
    values = {"image_size": size, "teachers": [name], "primary": name, "methods": ["sre2l"]}
    return load_settings("digits_quick", {**values, **changes})


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("mobilenet_v2", 96)])
def test_a_step_takes_what_is_counted(name: str, size: int) -> None:
    settings, count = settings_of(name, size), 8
    few = ShapeOnlyDataset("few", DatasetSizes(10, 40, 10), size)
    recipe = settings.recipe_of("sre2l")
    counted = StepPeakMemory(settings, few)._part_cost(recipe, (name, True, True), count)
    timer = StepTimer(settings, few)
    images, labels, views = timer._batch(recipe, count)
    gradient = MicroBatchedBackward(Objective(recipe, {name: timer._watch(name, recipe, images)}))
    measured = handed_out(
        lambda: gradient([images], views, labels, logit_teachers=[name], bn_teachers=[name])
    )
    assert counted == pytest.approx(measured, rel=TOLERANCE)


def test_a_training_step_takes_what_is_counted() -> None:
    known = NetworkCosts(ShapeOnlyDataset("few", DatasetSizes(10, 40, 10), 64))
    network = build_network("resnet18", classes=10, image_size=64).train()
    measured = handed_out(lambda: network(torch.randn(8, 3, 64, 64)).sum().backward())
    assert known.learning_bytes("resnet18", 8) == pytest.approx(measured, rel=TOLERANCE)


def test_what_is_let_go_makes_room_and_what_was_there_is_not_counted() -> None:
    before = torch.zeros(1000, device="meta")

    def work() -> torch.Tensor:
        for _ in range(5):
            once = before + 1  # 4,000 bytes, let go before the next but one
            del once
        kept = before * 2
        return kept.view(10, 100) + 1

    assert peak_bytes(work) == 8000


def test_a_unit_takes_its_largest_network_and_the_weights_of_all() -> None:
    pool = {"teachers": ["resnet18", "mobilenet_v2"], "methods": ["prism_all"]}
    settings = settings_of("resnet18", 96, **pool)
    few = ShapeOnlyDataset("few", DatasetSizes(10, 40, 10), 96)
    memory = StepPeakMemory(settings, few)
    recipe, images = settings.recipe_of("prism_all"), 4 * 3 * 96**2 * 10
    parts = [("resnet18", True, True), ("mobilenet_v2", False, True)]
    steps = [memory._part_cost(recipe, part, 10) for part in parts]
    assert steps[1] > 2 * steps[0]
    assert memory.step_bytes("prism_all", ImageBatch((0, 1), (0, 10))) == 3 * images + steps[1]


def test_parts_of_a_batch_bound_the_memory() -> None:
    few, batch = ShapeOnlyDataset("few", DatasetSizes(10, 40, 10), 96), ImageBatch((0, 1), (0, 10))
    whole, part = (
        StepPeakMemory(settings_of("mobilenet_v2", 96, micro_batch_size=m), few).step_bytes(
            "sre2l", batch
        )
        for m in ("auto", 2)
    )
    assert part < 0.4 * whole


def test_a_run_shows_the_memory_of_its_stages(tmp_path: Path) -> None:
    changes = {"methods": ["sre2l", "random_real"], "students": ["test_resnet"], "ipc": 2}
    run = Run(tmp_path / "r", settings_of("test_resnet", 32, **changes))
    known = NetworkCosts(ShapeOnlyDataset("few", DatasetSizes(10, 400, 10), 32))
    counts = {(c.stage, c.method): c.memory for c in estimate_run(run, known)}
    assert counts["synthesis", "sre2l"] > counts["synthesis", "random_real"] == 0
    assert counts["relabel", "sre2l"] == counts["diversity", "sre2l"] == 0
    weights = known.weight_bytes("test_resnet")
    student = 3 * weights + known.learning_bytes("test_resnet", 20) + 20 * 3 * 32**2
    assert counts["evaluation", "sre2l"] == student
    batch = run.settings.squeeze.batch
    trained = [
        teachers.training_bytes(known, name, batch, "adamw") for name in run.settings.networks
    ]
    assert counts["squeeze", ""] == max(trained) + 400 * 3 * 32**2
    table = count_table(estimate_run(run, known))
    assert table.iloc[-1]["GPU GB"] == f"{max(counts.values()) / 1e9:,.1f}"
    assert set(table[table["stage"] == "relabel"]["GPU GB"]) == {""}


def test_networks_with_weights_are_trained_by_nobody(tmp_path: Path) -> None:
    name = "resnet18@IMAGENET1K_V1"
    run = Run(tmp_path / "r", settings_of(name, 224, holdout_networks=["alexnet@IMAGENET1K_V1"]))
    known = NetworkCosts(ShapeOnlyDataset("few", DatasetSizes(10, 40, 10), 224))
    counts = {(c.stage, c.method): c.memory for c in estimate_run(run, known)}
    assert counts["squeeze", ""] == 0
    assert evaluation.resident_image_bytes(known) == 40 * 3 * 224**2
