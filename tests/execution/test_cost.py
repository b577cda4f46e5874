"""Expected time, operations and memory, against real networks and steps counted one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.data.dataset import ClassInfo, ShapeOnlyDataset
from prism_nb.data.registry import open_dataset
from prism_nb.execution import cost, pipeline
from prism_nb.execution.cost import StepCounter, Use, unit_uses
from prism_nb.models.zoo import build_network
from prism_nb.synthesis.teacher_sampling import teacher_schedule

POOL = ["test_resnet", "test_efficientnet", "test_byobnet"]


def sized(size: int, classes: int = 50) -> ShapeOnlyDataset:
    infos = tuple(ClassInfo(i, f"{i}", f"{i}") for i in range(classes))
    return ShapeOnlyDataset("sizes", infos, size, 40 * classes, 5 * classes)


def run_of(folder: Path, **changes: Any) -> Run:
    values = {"teachers": POOL, "batch_size": 30, "ipc": 6, "device": "cpu", **changes}
    return Run.create(folder / "r", load_settings("digits_quick", values))


def all_units(run: Run, classes: int) -> list[Unit]:
    return [unit for stage in pipeline.STAGES.values() for unit in stage.units(run, classes)]


def layer_flop(name: str, size: int, classes: int) -> float:
    """Count each convolution and linear layer by its shapes, from a real pass of one image."""
    network = build_network(name, classes=classes, image_size=size).eval()
    total = 0.0

    def collect(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
            total += 2.0 * output[0].numel() * fan_in
        elif isinstance(layer, nn.Linear):
            total += 2.0 * layer.in_features * layer.out_features

    for layer in network.modules():
        layer.register_forward_hook(collect)
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    return total


@pytest.mark.parametrize(("name", "size"), [("resnet18", 224), ("mobilenet_v2", 96)])
def test_forward_passes_are_counted_layer_by_layer(name: str, size: int) -> None:
    counter = StepCounter(load_settings("digits_quick"), sized(size))
    forward = layer_flop(name, size, 50)
    assert counter.flop(Use("forward", name)) == pytest.approx(forward, rel=1e-12)
    assert counter.flop(Use("both", name)) == pytest.approx(2 * forward)
    assert counter.flop(Use("student", name)) == pytest.approx(3 * forward)


def allocated_bytes(step: Any) -> float:
    """Return the most bytes that PyTorch's allocator holds at once during a step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return float(most)


def test_activations_are_most_of_what_a_training_step_allocates() -> None:
    counter = StepCounter(load_settings("digits_quick"), sized(64, 10))
    network = build_network("resnet18", classes=10, image_size=64).train()
    images = torch.randn(16, 3, 64, 64)
    weights = sum(parameter.nbytes for parameter in network.parameters())
    measured = allocated_bytes(lambda: network(images).sum().backward())
    counted = counter.activation_bytes("resnet18", 16, training=True)
    assert 0.9 * (measured - weights) < counted < measured
    assert counter.activation_bytes("resnet18", 4, training=True) < 0.3 * counted


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("prism", {"iterations": 6, "bn_slot_prob": 0.5}),
        ("prism_intra", {"iterations": 7, "resample_every": 2}),
        ("gvbsm", {"iterations": 5}),
        ("delt", {"iterations": 6, "delt_start_gap": 2, "delt_groups": 3, "init": "noise"}),
        ("prism", {"iterations": 6, "early_late_step": 1}),
        ("random_real", {}),
    ],
)
def test_every_step_is_counted_with_its_networks(
    method: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = run_of(tmp_path, methods=[method], recipes={method: recipe})
    for unit in unit_plan.synthesis_units(run, 10):
        batch = unit_plan.batch_of(unit)
        whole = run.settings.recipe_of(method).for_image_index(batch.image_indices[0])
        expected = dict.fromkeys([("step", "")], 0)
        schedule = teacher_schedule(run.settings, method, batch)
        for step in range(whole.iterations if whole.image_source == "optimized" else 0):
            active = sum(whole.start_step(index, 6) <= step for _, index in batch.members())
            logit, bn = schedule.logit_teachers_at(step), schedule.bn_teachers_at(step)
            expected["step", ""] += active
            for name in {*logit, *bn}:
                role = "both" if name in logit and name in bn else "logit"
                key = ("stats" if name not in logit else role, name)
                expected[key] = expected.get(key, 0) + active
        found = unit_uses(run.settings, open_dataset(run.settings), unit)
        roles = {"step", "logit", "stats", "both"}
        steps = {(u.role, u.network): n for u, n in found.items() if u.role in roles}
        assert {key: n for key, n in expected.items() if n} == steps
        assert found[Use("store")] == len(batch.members())


def test_the_other_stages_are_counted_as_they_work(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        holdout_networks=["test_mambaout"],
        label_teachers=["test_resnet", "test_mambaout"],
        feature_networks=["test_mambaout"],
        methods=["random_real"],
        students=["test_resnet"],
        student_seeds=1,
        label_epochs=7,
        evaluate_every=3,
        squeeze_epochs=2,
        real_per_class=6,
    )
    train, val, images = 2000, 250, 300
    by_stage: dict[str, list[dict[Use, float]]] = {}
    for unit in all_units(run, 50):
        by_stage.setdefault(unit.stage, []).append(unit_uses(run.settings, sized(16), unit))
    batch = run.settings.squeeze.batch
    assert by_stage["squeeze"][0] == {
        Use("forward", "test_resnet"): val,
        Use("squeeze", "test_resnet", batch): 2 * train,
    }
    assert by_stage["relabel"] == [{Use("label"): (7 + 1) * images}]
    student = {
        Use("student", "test_resnet", min(run.settings.student.batch, images)): 7 * images,
        Use("forward", "test_resnet"): 3 * val,
        Use("label"): 0,
    }
    assert by_stage["evaluation"] == [student]
    real, made = by_stage["diversity"]
    assert made == {Use("forward", name): images for name in ["test_mambaout", *POOL]}
    assert real[Use("forward", "test_mambaout")] == images + 50 * (6 + 6)


def test_students_label_where_labels_are_not_stored(tmp_path: Path) -> None:
    labelled = {"protocol": 7, "no_aug": 1, "hard_labels": 0}  # times per image
    changes = {"methods": ["random_real"], "student_seeds": 1, "eval_variants": [*labelled]}
    run = run_of(tmp_path, label_epochs=7, labels="online", **changes)
    for unit in unit_plan.student_units(run, 50):
        found = unit_uses(run.settings, sized(16), unit)
        assert found[Use("label")] == 300 * labelled[unit.params["variant"]]


def test_a_run_is_estimated_by_stage_and_method(tmp_path: Path) -> None:
    run = run_of(tmp_path, methods=["prism", "random_real"], students=["test_resnet"])
    found = cost.estimate_run(run, sized(32), all_units(run, 50))
    counter = StepCounter(run.settings, sized(32))
    prism = unit_plan.method_units(run, "prism", 50)
    synthesis = found.loc[("synthesis", "prism")]
    assert synthesis["flop"] == pytest.approx(sum(map(counter.unit_flop, prism)))
    assert synthesis["files"] == 300 + len(prism)
    assert synthesis["memory"] > found.loc[("synthesis", "random_real"), "memory"] == 0
    weights = build_network("test_resnet", classes=50, image_size=32).parameters()
    trained = found.loc[("evaluation", "prism"), "memory"]
    assert trained > 3 * sum(value.nbytes for value in weights)
    assert found.loc[("relabel", "prism"), "memory"] == 0
    whole = found.loc[("in all", "")]
    assert whole["flop"] == pytest.approx(found["flop"][:-1].sum())
    assert whole["memory"] == found["memory"][:-1].max()
    table = cost.estimate_table(found, rate=1e12)
    assert table.iloc[-1]["hours"] == f"{whole['flop'] / 1e12 / 3600:,.1f}"
    assert "hours" not in cost.estimate_table(found)


def test_a_finished_run_has_as_many_files_as_estimated(tmp_path: Path) -> None:
    one = {key: ["test_resnet"] for key in ("teachers", "feature_networks", "students")}
    short = {"squeeze_epochs": 1, "label_epochs": 2, "student_seeds": 1, "holdout_networks": []}
    run = run_of(tmp_path, **one, **short, ipc=1, methods=["random_real"], image_size=16)
    dataset = open_dataset(run.settings)
    run.write_classes(dataset.class_records())
    estimated = cost.estimate_run(run, dataset, all_units(run, 10)).groupby("stage")["files"].sum()
    for stage in pipeline.STAGES:
        pipeline.execute(run, stage)
        folders = {"squeeze": "teachers", "relabel": "labels"}
        made = run.path / folders.get(stage, stage)
        assert sum(path.is_file() for path in made.rglob("*")) == estimated[stage], stage


def test_micro_batches_bound_the_memory(tmp_path: Path) -> None:
    unit_memory = {}
    for size in ("auto", 2):
        run = run_of(tmp_path / str(size), methods=["sre2l"], micro_batch_size=size)
        unit = unit_plan.synthesis_units(run, 10)[0]
        unit_memory[size] = StepCounter(run.settings, sized(96, 10)).unit_memory(unit)
    assert unit_memory[2] < 0.4 * unit_memory["auto"]


def test_retrieval_extracts_features_of_patches_and_images(tmp_path: Path) -> None:
    own = {"init": "patches", "max_scored_images": 36, "mosaic_grid": 2, "crops_per_image": 5}
    uses = []
    for method in ("reta", "fadrm_plus"):
        run = run_of(tmp_path / method, methods=[method], recipes={method: own})
        units = unit_plan.synthesis_units(run, 50)
        found = [unit_uses(run.settings, sized(16), unit) for unit in units]
        uses.append(sum(each[Use("forward", "test_resnet")] for each in found))
    assert uses[1] == pytest.approx(50 * 36 * 5)
    assert uses[0] - uses[1] == pytest.approx(50 * 36 / 4 + 3 * 300)  # at three changes


def test_each_use_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def benchmark(_: torch.device, work: Any) -> float:
        work()
        measured.append(1)
        return float(len(measured))

    monkeypatch.setattr(cost, "benchmark", benchmark)
    run = run_of(tmp_path, methods=["prism"], recipe={"iterations": 40}, image_size=16)
    units = unit_plan.synthesis_units(run, 10)
    assert all(c > 0 for c in cost.measured_costs(run, units).values())
    assert len(measured) <= 2 + 4  # storing, the step alone, three networks, one in two roles


@pytest.mark.parametrize("stage", ["squeeze", "relabel", "evaluation", "diversity"])
def test_every_stage_is_measured_by_real_steps(stage: str, tmp_path: Path) -> None:
    one = {key: ["test_resnet"] for key in ("teachers", "feature_networks", "students")}
    shared = {"methods": ["random_real"], "image_size": 16, "holdout_networks": []}
    run = run_of(tmp_path, **one, **shared, ipc=2, squeeze_batch=16)
    expected = pipeline.plan(run, stage, measure=True).seconds_left
    assert expected is not None
    assert expected > 0
