"""Operations: counted layer by layer here, and by the counter of the kit there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.data.registry import DatasetSizes, ShapeOnlyDataset, dataset_sizes
from prism_nb.execution.cost import CACHE, StepFlops, count_table, estimate_run
from prism_nb.execution.forecast import NetworkCosts
from prism_nb.synthesis.teacher_sampling import teacher_schedule

SIZES = {"resnet18": 224, "mobilenet_v2": 96, "efficientnet_b0": 96, "alexnet": 224}


def described(size: int, classes: int = 1000) -> ShapeOnlyDataset:
    return ShapeOnlyDataset("numbers", DatasetSizes(classes, 40 * classes, 5 * classes), size)


def layer_flop(name: str, size: int, classes: int = 1000) -> list[tuple[str, float]]:
    """Count each convolution and linear layer by its shapes, from a real pass of one image."""
    network = torchvision.models.get_model(name, weights=None, num_classes=classes).eval()
    found: list[tuple[str, float]] = []

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            _, channels, height, width = output.shape
            each = layer.in_channels // layer.groups
            each *= layer.kernel_size[0] * layer.kernel_size[1]
            found.append(("conv", 2.0 * channels * height * width * each))
        elif isinstance(layer, nn.Linear):
            found.append(("linear", 2.0 * layer.in_features * layer.out_features))

    for layer in network.modules():
        layer.register_forward_hook(collect)
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    return found


def test_resnet18_takes_what_everyone_says_it_takes() -> None:
    # 1.82 G multiply-adds, two operations each
    assert NetworkCosts(described(224)).forward("resnet18") == pytest.approx(3.63e9, rel=2e-3)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_networks_are_counted_layer_by_layer(name: str, size: int) -> None:
    arithmetic, layers = NetworkCosts(described(size)), layer_flop(name, size)
    forward = sum(flop for _, flop in layers)
    assert arithmetic.forward(name) == pytest.approx(forward, rel=1e-12)
    # Back by the input and by the weights takes twice as much, but nobody asks for the images'.
    first = layers[0][1]
    assert arithmetic.learning(name) == pytest.approx(3 * forward - first, rel=1e-12)


def step_counter(network: str, size: int, **changes: Any) -> StepFlops:
    values = {
        "teachers": [network, "resnet18"] if network != "resnet18" else ["resnet18"],
        "primary": "resnet18",
        "methods": ["prism"],
        "image_size": size,
        "batch_size": 10,
        **changes,
    }
    return StepFlops(load_settings("digits_quick", values), described(size))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_images_cost_one_pass_back_and_weights_none(name: str) -> None:
    counter, layers = step_counter(name, 224), layer_flop(name, 224)
    recipe = counter.settings.recipe_of("prism")
    forward, head = sum(flop for _, flop in layers), layers[-1][1]
    both = counter._part_cost(recipe, (name, True, True), 4)
    assert both == pytest.approx(4 * 2 * forward, rel=1e-12)
    # Who only matches_stats ends behind the last batch norm, so that the head is never run.
    matches_stats = counter._part_cost(recipe, (name, False, True), 4)
    assert matches_stats == pytest.approx(4 * 2 * (forward - head), rel=1e-12)


def run_of(folder: Path, **changes: Any) -> Run:
    values = {
        "teachers": ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"],
        "primary": "resnet18",
        "holdout_networks": ["alexnet"],
        "label_teachers": ["resnet18", "alexnet"],
        "methods": ["prism", "rded", "random_real"],
        "students": ["shufflenet_v2_x1_0"],
        "student_seeds": 2,
        "image_size": 224,
        "ipc": 3,
        "batch_size": 20,
        "label_epochs": 7,
        "evaluate_every": 3,
        "squeeze_epochs": 2,
        "real_per_class": 6,
        "recipe": {"iterations": 9, "early_late_step": 4},
        **changes,
    }
    return Run(folder / "r", load_settings("digits_quick", values))


@pytest.fixture(scope="module")
def fifty() -> NetworkCosts:
    """Counts networks of fifty classes, each once for all tests."""
    return NetworkCosts(described(224, classes=50))


def test_a_run_is_counted_as_its_stages_work(tmp_path: Path, fifty: NetworkCosts) -> None:
    run = run_of(tmp_path, dataset="imagenet1k")
    found = {(c.stage, c.method): c for c in estimate_run(run, fifty)}
    passes = {
        name: sum(flop for _, flop in layer_flop(name, 224, 50))
        for name in (*run.settings.networks, "shufflenet_v2_x1_0")
    }
    first = {name: layer_flop(name, 224, 50)[0][1] for name in passes}
    learn = {name: 3 * flop - first[name] for name, flop in passes.items()}
    train, val, images = 2000, 250, 150

    teachers = sum(2 * train * learn[n] + val * passes[n] for n in run.settings.networks)
    assert found["squeeze", ""].flop == pytest.approx(teachers, rel=1e-12)
    labels = (7 + 1) * images * (passes["resnet18"] + passes["alexnet"])
    assert found["relabel", "rded"].flop == pytest.approx(labels, rel=1e-12)
    student = "shufflenet_v2_x1_0"
    students = 2 * (7 * images * learn[student] + 3 * val * passes[student])
    assert found["evaluation", "prism"].flop == pytest.approx(students, rel=1e-12)
    pool = sum(passes[name] for name in run.settings.teachers)
    beside = images * (passes["alexnet"] + pool)
    assert found["diversity", "prism"].flop == pytest.approx(beside, rel=1e-12)
    real = beside + 50 * (3 + 6) * passes["alexnet"]
    assert found["diversity", "real"].flop == pytest.approx(real, rel=1e-12)
    assert found["synthesis", "random_real"].flop == 0
    scored = 50 * min(300, 40) * 5 * passes["resnet18"]
    assert found["synthesis", "rded"].flop == pytest.approx(scored, rel=1e-12)
    assert found["synthesis", "prism"].flop == pytest.approx(steps_flop(run, passes), rel=1e-12)

    assert found["synthesis", "prism"].files == images + found["synthesis", "prism"].units == 159
    assert found["relabel", "prism"].files == 8
    row = 2 * 50  # bytes of fp16
    assert found["relabel", "prism"].bytes == images * 7 * (row + 25)
    assert found["evaluation", "prism"].files == 2 * 4
    assert found[CACHE, ""].bytes == (val + train) * 3 * 224 * 224
    assert found[CACHE, ""].files == 3
    held = torchvision.models.get_model("alexnet", num_classes=50).state_dict().values()
    assert found["squeeze", ""].bytes > sum(value.nbytes for value in held) > 1e8


def test_only_what_is_decoded_for_somebody_is_counted(tmp_path: Path, fifty: NetworkCosts) -> None:
    train, val, image = 2000, 250, 3 * 224 * 224
    weights = {"teachers": ["resnet18@DEFAULT"], "primary": "resnet18@DEFAULT"}
    weights |= {"holdout_networks": ["alexnet@DEFAULT"], "label_teachers": []}
    weights |= {"dataset": "imagenet1k", "methods": ["random_real"]}
    for changes, wanted in (
        ({}, val),  # nobody is trained on all training images
        ({"train_on_real": True}, val + train),
        ({"holdout_networks": ["alexnet"]}, val + train),
        ({"dataset": "cifar10", "holdout_networks": ["alexnet"]}, 0),  # read whole
    ):
        run = run_of(tmp_path, **{**weights, **changes})
        counts = {c.stage: c for c in estimate_run(run, fifty)}
        assert counts[CACHE].bytes == wanted * image


def steps_flop(run: Run, passes: dict[str, float]) -> float:
    """Walk through every step of every unit of PRISM."""
    heads = {name: layer_flop(name, 224, 50)[-1][1] for name in run.settings.teachers}
    total = 0.0
    for unit in unit_plan.method_units(run, "prism", 50):
        batch = unit_plan.batch_of(unit)
        draws = teacher_schedule(run.settings, "prism", batch)
        steps = 9 - 4 * (batch.image_indices[0] % 8)
        for step in range(steps):
            for name in {*draws.at(step), "resnet18"}:
                whole = passes[name] - (0 if name == "resnet18" else heads[name])
                total += len(batch.members()) * 2 * whole
    return total


def test_other_forms_of_labels_take_what_they_take(tmp_path: Path, fifty: NetworkCosts) -> None:
    view = fifty.forward("resnet18") + fifty.forward("alexnet")
    stored, online, hard = (
        {
            (c.stage, c.method): c
            for c in estimate_run(run_of(tmp_path, methods=["random_real"], **how), fifty)
        }
        for how in (
            {},
            {"labels": "online", "eval_variants": ["protocol", "no_aug", "hard_labels"]},
            {"labels": "hard", "student_loss": "ce"},
        )
    )
    labels, students = ("relabel", "random_real"), ("evaluation", "random_real")
    assert stored[labels].flop == pytest.approx(8 * 150 * view)
    assert online[labels].flop == hard[labels].flop == pytest.approx(150 * view)
    assert online[labels].bytes == hard[labels].bytes == 0
    assert online[labels].files == 1
    assert hard[students].flop == stored[students].flop
    # Three eval_variants; labels of 7 epochs in the first, of the images as they are in the second.
    spoken = 2 * (7 + 1) * 150 * view
    assert online[students].flop == pytest.approx(3 * stored[students].flop + spoken)


def test_a_table_adds_up_and_gives_hours_at_a_rate_alone(
    tmp_path: Path, fifty: NetworkCosts
) -> None:
    counts = estimate_run(run_of(tmp_path, methods=["random_real"]), fifty)
    table = count_table(counts, rate=1e12)
    assert "hours" not in count_table(counts)
    last = table.iloc[-1]
    assert last["stage"] == "in all"
    assert last["hours"] == f"{sum(c.flop for c in counts) / 1e12 / 3600:,.1f}"
    assert last["files"] == f"{sum(c.files for c in counts):,}"


def test_numbers_stand_in_for_datasets_that_are_elsewhere() -> None:
    preset = {"dataset": "imagenet1k", "class_list": ["n01440764", "n01443537"]}
    whole = dataset_sizes(load_settings("imagenet1k_ipc1"))
    assert (len(whole.classes), len(whole.labels("train"))) == (1000, 1_281_167)
    two = dataset_sizes(load_settings("imagenet1k_ipc1", preset))
    assert (len(two.classes), len(two.labels("val"))) == (2, 100)
    digits = dataset_sizes(load_settings("digits"))
    assert len(digits.labels("train")) == 1257
    with pytest.raises(UsageError, match="--size"):
        dataset_sizes(load_settings("digits", {"dataset": "folder"}))
    with pytest.raises(ValueError, match="no images"):
        whole.images("train", [0])
