"""Training on real data: optimizers and schedules, resumption, and what a batch is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from prism_nb.core.device import seeded
from prism_nb.core.errors import PrismError
from prism_nb.core.settings import Squeeze
from prism_nb.data import distilled
from prism_nb.data.dataset import ImageDataset, Split
from prism_nb.data.small import Digits
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.layer_stats import conv_layer_stats
from prism_nb.models.metrics import predict
from prism_nb.models.train import (
    classification_loss,
    collect_conv_stats,
    new_optimizer,
    train_loop,
    train_network,
)
from tests.helpers.teachers import teacher_of

CPU = torch.device("cpu")
ADAMW: dict[str, Any] = {"epochs": 3, "batch": 32, "max_shift": 2}
SGD = {**ADAMW, "optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4}
AUGMENTED = {"crop_min": 0.5, "flip": True, "views": "per_image"}


class SomeDigits(ImageDataset):
    """A hundred training digits, which record the size of each request."""

    def __init__(self) -> None:
        whole = Digits(16)
        self.name, self.classes, self.image_size = "some", whole.classes, 16
        self.mean, self.std = whole.mean, whole.std
        self._labels, self._pixels = whole.labels("train")[:100], whole.images("train", range(100))
        self.requests: list[int] = []

    def labels(self, split: Split) -> np.ndarray:
        return self._labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        self.requests.append(len(indices))
        return self._pixels[list(indices)]


def train(
    config: dict[str, Any],
    dataset: ImageDataset | None = None,
    *,
    name: str = "test_byobnet",
    on_step: Callable[[dict[str, Any]], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Tensor]:
    squeeze = Squeeze(**{"weight_decay": 0.05, "lr": 3e-3, **config})
    network = train_network(
        name, dataset or SomeDigits(), squeeze, CPU, on_step, checkpoint, seed=5
    )
    return network.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_training_learns_repeats_and_restores_the_generator() -> None:
    digits, config = Digits(16), Squeeze(epochs=4, batch=64, max_shift=2)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    steps: list[int] = []
    first, second = (
        train_network(
            "test_byobnet", digits, config, CPU, lambda e: steps.append(e["step"]), seed=5
        )
        for _ in "ab"
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert steps[-1] == 4 * (1257 // 64)
    assert (predict(first, digits, "val", CPU) == digits.labels("val")).mean() > 0.5
    assert equal(first.state_dict(), second.state_dict())


# -- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("test_byobnet", {**ADAMW, "schedule": "cosine", **AUGMENTED}),
        ("mnasnet0_5", {**SGD, "label_smoothing": 0.1}),  # whose state needs its version
    ],
)
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint, steps = Checkpoint(tmp_path / "c", "same", every=0), list[int]()

    def die(progress: dict[str, Any]) -> None:
        if progress["step"] > 2 * (100 // 32):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, name=name, on_step=die, checkpoint=checkpoint)
    resumed = train(
        config, name=name, on_step=lambda e: steps.append(e["step"]), checkpoint=checkpoint
    )
    assert steps == [7, 8, 9]  # the third epoch alone
    assert equal(train(config, name=name), resumed)


# -- optimizers and loss ---------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_sgd_follows_nesterov_decay_and_schedule(schedule: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    weights = [p.detach().double().clone() for p in network.parameters()]
    velocity = [torch.zeros_like(w) for w in weights]
    images, labels = torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    config = Squeeze(
        epochs=8,
        batch=6,
        optimizer="sgd",
        lr=0.3,
        weight_decay=5e-4,
        schedule=schedule,
        max_shift=0,
    )
    train_loop(network, images, labels, config, lambda _: None)
    inputs = images.flatten(1).double()
    for step in range(8):
        lr, momentum = 0.3 * (1 + math.cos(math.pi * step / 8)) / 2, 0.9
        if schedule == "one_cycle":
            lr, momentum = one_cycle(step, 8, 0.3)
        logits = inputs @ weights[0].T + weights[1]
        error = (logits.softmax(1) - functional.one_hot(labels).double()) / 6
        for index, grad in enumerate([error.T @ inputs, error.sum(0)]):
            grad = grad + 5e-4 * weights[index]
            velocity[index] = momentum * velocity[index] + grad if step else grad
            weights[index] = weights[index] - lr * (grad + momentum * velocity[index])
    for mine, expected in zip(network.parameters(), weights, strict=True):
        assert torch.allclose(mine.detach().double(), expected, atol=1e-5)


def one_cycle(step: int, steps: int, peak: float) -> tuple[float, float]:
    """Return lr and momentum of Smith and Topin's cycle with torch's published defaults."""
    up = 0.3 * steps - 1
    low, last = peak / 25, peak / 25 / 1e4
    if step <= up:
        share = (1 - math.cos(math.pi * step / up)) / 2
        return low + (peak - low) * share, 0.95 - 0.1 * share
    share = (1 - math.cos(math.pi * (step - up) / (steps - 1 - up))) / 2
    return peak + (last - peak) * share, 0.85 + 0.1 * share


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_vectors_decay_only_if_asked(kind: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    everything = new_optimizer(network, kind, lr=0.1, weight_decay=0.2)
    assert [g["weight_decay"] for g in everything.param_groups] == [0.2]
    matrices, vectors = new_optimizer(
        network, kind, lr=0.1, weight_decay=0.2, decay_vectors=False
    ).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.2, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert {p.ndim for p in vectors["params"]} == {1}


def test_muon_is_torchs_on_matrices_and_kernels_and_adamw_on_the_rest() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    network.register_parameter("position", nn.Parameter(torch.randn(1, 5, 2)))
    parameters = list(network.parameters())
    rows = [p.flatten(1) if p.ndim in {2, 4} else p for p in parameters]
    twins = [nn.Parameter(row.detach().clone()) for row in rows]
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.2}
    matrices = [t for t in twins if t.ndim == 2]
    optimizers = [
        new_optimizer(network, "muon", decay_vectors=False, **options),
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options),
        torch.optim.AdamW([t for t in twins if t.ndim == 3], **options),
        torch.optim.AdamW([t for t in twins if t.ndim == 1], lr=0.1, weight_decay=0.0),
    ]
    schedulers = [LambdaLR(each, lambda epoch: 1 / (1 + epoch)) for each in optimizers]
    for _ in range(4):
        network.zero_grad()
        loss = network(torch.randn(6, 3, 4, 4)).square().mean() + network.position.sin().sum()
        loss.backward()
        for parameter, twin in zip(parameters, twins, strict=True):
            twin.grad = parameter.grad.reshape(twin.shape).clone()
        for each in [*optimizers, *schedulers]:
            each.step()
    for parameter, twin in zip(parameters, twins, strict=True):
        torch.testing.assert_close(parameter.flatten(), twin.flatten())


def test_label_smoothing_shares_the_true_class_with_all() -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, 2, 1, 0])
    found = classification_loss(logits, labels, Squeeze(label_smoothing=0.2))
    target = 0.8 * functional.one_hot(labels).double() + 0.2 / 4
    expected = -(target * logits.double().log_softmax(1)).sum() / 5
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_half_precision_trains_full_precision_weights() -> None:
    half, full = train({**ADAMW, "precision": "bf16"}), train(ADAMW)
    assert all(v.dtype == torch.float32 for v in half.values() if v.is_floating_point())
    assert not equal(half, full)


def test_diverged_training_names_the_setting() -> None:
    with pytest.raises(PrismError, match="lower squeeze_lr"):
        train({**SGD, "lr": 1e30})


# -- statistics of convolutions --------------------------------------------------------------


def test_conv_stats_are_means_over_augmented_batches() -> None:
    teacher, some = teacher_of("test_byobnet", size=16), SomeDigits()
    stats, config = conv_layer_stats(teacher.network, 4), Squeeze(batch=32, max_shift=1)
    state = torch.random.get_rng_state()
    found = collect_conv_stats(teacher, stats, some, config, CPU, seed=11)
    assert torch.equal(state, torch.random.get_rng_state())
    sums = {stat.name: [torch.zeros(()), torch.zeros(())] for stat in stats}
    with seeded(11, CPU):
        for rows in torch.randperm(100)[:96].split(32):  # the last four are left out
            images = some.normalize(some.images("train", rows.tolist()))
            down, right = torch.randint(0, 3, (2,)).tolist()
            images = functional.pad(images, (1, 1, 1, 1), "replicate")
            images = images[:, :, down : down + 16, right : right + 16]
            for stat, measured in zip(
                stats, teacher.forward_with_stats(images, stats)[1], strict=True
            ):
                sums[stat.name] = [
                    a + b / 3 for a, b in zip(sums[stat.name], measured, strict=True)
                ]
    assert list(found) == list(sums)
    for name, expected in sums.items():
        for mine, theirs in zip(found[name], expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


# -- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ADAMW, {**SGD, **AUGMENTED}])
def test_streamed_images_give_the_same_weights(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = train(config)
    monkeypatch.setattr(distilled, "MAX_RESIDENT_BYTES", 3 * 100 * 16 * 16 - 1)
    some = SomeDigits()
    streamed = train(config, some)
    assert set(some.requests) == {32}
    assert len(some.requests) == 3 * (100 // 32)
    assert equal(resident, streamed)
