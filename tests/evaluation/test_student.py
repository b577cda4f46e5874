"""Students: every protocol learns and resumes exactly; losses, schedules and scores by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import Student
from prism_nb.data.augment import epoch_params, identity_params, sample_epoch_params
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Digits
from prism_nb.evaluation import student as student_module
from prism_nb.evaluation.label_store import EpochLabels
from prism_nb.evaluation.student import (
    EvalResult,
    Row,
    StudentData,
    cutmix_cross_entropy,
    evaluate,
    kd_kl_loss,
    learning_rate_factor,
    mse_gt_loss,
    student_trainer,
    train_student,
)
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.zoo import build_network

CPU = torch.device("cpu")
DIGITS = Digits(16)
CONFIG = {"batch": 25, "lr": 5e-3, "temperature": 2.0, "evaluate_every": 4}
SGD = {"optimizer": "sgd", "lr": 0.05, "loss": "ce"}
MUON = {"optimizer": "muon", "lr": 0.02, "batch": 50}


def config_of(**changes: Any) -> Student:
    return Student.model_validate({**CONFIG, **changes})


def student_data(*, hard: bool = False) -> StudentData:
    """Return ten real images per class, with one-hot or hard labels."""
    indices = [int(i) for c in range(10) for i in DIGITS.class_indices("train", c)[:10]]
    images = DIGITS.normalize(DIGITS.images("train", indices))
    classes = torch.arange(10).repeat_interleave(10)

    def labels_of(epoch: int) -> EpochLabels:
        generator = torch.Generator().manual_seed(epoch)
        params = sample_epoch_params(
            100, 16, crop_min=0.8, flip=False, mix="none", generator=generator
        )
        return EpochLabels(params, None if hard else torch.eye(10)[classes] * 8)

    return StudentData(images, classes, labels_of)


def train(
    *,
    epochs: int = 12,
    seed: int = 1,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda values: None,
    **changes: Any,
) -> tuple[nn.Module, list[Row]]:
    student, rows, result = train_student(
        "test_byobnet",
        DIGITS,
        student_data(hard=changes.get("loss") == "ce"),
        config_of(**changes),
        epochs=epochs,
        seed=seed,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
    )
    assert result.top1 == rows[-1]["top1"] <= result.top5 == rows[-1]["top5"]
    return student, rows


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# -- training --------------------------------------------------------------------------------


def test_a_student_learns_and_repeats_from_its_seed() -> None:
    state = torch.random.get_rng_state()
    first, rows = train()
    again, rows_again = train()
    _, other = train(seed=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [row["epoch"] for row in rows] == [4, 8, 12]
    assert rows[-1]["top1"] > 0.5
    assert rows == rows_again != other
    assert equal(first, again)


@cache
def default_rows() -> list[Row]:
    return train()[1]


@pytest.mark.parametrize(
    "changes",
    [{"loss": "kl"}, {"loss": "ce"}, SGD, MUON, {"ema": 0.8}, {"precision": "bf16"}],
    ids=str,
)
def test_a_student_learns_by_every_protocol(changes: dict[str, Any]) -> None:
    student, rows = train(**changes)
    assert all(weight.dtype == torch.float32 for weight in student.parameters())
    assert rows[-1]["top1"] > 0.2  # chance is 0.1, with a deviation of 0.013
    assert rows != default_rows()


class _KilledError(Exception):
    """The end of a process by a signal."""


def interrupt(path: Path, *, after: int, **changes: Any) -> None:
    """Train for `after` epochs, and be killed in the next."""

    def die(values: dict[str, Any]) -> None:
        if values["step"] > after:
            raise _KilledError

    with pytest.raises(_KilledError):
        train(checkpoint=Checkpoint(path, "same", every=0), on_epoch=die, **changes)


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, SGD, MUON], ids=str)
def test_a_resumed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path, steps = tmp_path / "student.checkpoint", list[int]()
    undisturbed, rows = train(epochs=6, **changes)
    for after in (2, 4):
        interrupt(path, after=after, epochs=6, **changes)
    student, found = train(
        epochs=6,
        checkpoint=Checkpoint(path, "same", every=0),
        on_epoch=lambda values: steps.append(values["step"]),
        **changes,
    )
    assert steps == [5, 6]
    assert found == rows
    assert equal(student, undisturbed)


def test_hard_labels_of_dc_are_its_literal_loop() -> None:
    decay = 0.5  # far more than the protocol's, so that it is seen
    run = load_settings(
        "digits_quick", {"protocol": "dc", "image_size": 16, "student_weight_decay": decay}
    )
    views = epoch_params(run, 100, 0, CPU)
    assert torch.equal(views.crop, identity_params(100, 16, CPU).crop)
    data, epochs, seed = student_data(hard=True), 5, 3
    plain = StudentData(data.images, data.classes, lambda _: EpochLabels(views, None))
    student, _, _ = train_student(
        "convnet3", DIGITS, plain, run.student, epochs=epochs, seed=seed, on_epoch=lambda _: None
    )
    torch.manual_seed(seed)
    network = build_network("convnet3", classes=10, image_size=16).double()
    begin = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    images, momentum = data.images[torch.arange(100)].double(), dict[str, Tensor]()
    for epoch in range(epochs):
        rate = 0.01 if epoch <= epochs // 2 + 1 else 0.001
        network.zero_grad()
        nn.functional.cross_entropy(network(images), data.classes).backward()
        with torch.no_grad():
            for name, weight in network.named_parameters():
                gradient = weight.grad + (decay * weight if weight.ndim > 1 else 0)
                momentum[name] = 0.9 * momentum.get(name, 0) + gradient
                weight -= rate * momentum[name]
    found = dict(student.named_parameters())
    for name, weight in network.named_parameters():
        moved = (weight - begin[name]).norm()
        assert (found[name] - weight).norm() < 0.02 * moved + 1e-6, name


def test_the_moving_average_follows_its_decay() -> None:
    torch.manual_seed(0)
    trainer = student_trainer("test_byobnet", DIGITS, config_of(ema=0.9), CPU, epochs=1)
    images = torch.randn(8, 3, 16, 16)
    expected: dict[str, Tensor] = {}
    for step in range(3):
        trainer.step(trainer.network(images).square().mean())
        for name, value in trainer.network.named_parameters():
            new = value.detach().double()
            expected[name] = new if step == 0 else 0.9 * expected[name] + 0.1 * new
    for name, value in trainer.eval_model.named_parameters():
        assert torch.allclose(value.double(), expected[name], atol=1e-5)
    assert not equal(trainer.eval_model, trainer.network)


def test_a_diverging_student_is_an_error() -> None:
    with pytest.raises(PrismError, match="test_byobnet diverged in epoch 1; lower student_lr"):
        train(optimizer="sgd", lr=1e30)


# -- schedules and losses --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "epoch", "factor"),
    [
        ("cosine_then_linear", 100, 0.957),  # as published, of 300 epochs
        ("cosine_then_linear", 250, 0.750),
        ("cosine_then_linear", 251, 0.1225),
        ("cosine_then_linear", 299, 0.0025),
        ("cosine", 150, 0.5),
        ("cosine_eta2", 150, (1 + math.cos(math.pi / 4)) / 2),
        ("step", 151, 1.0),
        ("step", 152, 0.1),
        ("constant", 299, 1.0),
    ],
)
def test_schedules_have_their_values(schedule: str, epoch: int, factor: float) -> None:
    assert learning_rate_factor(schedule, epoch, 300) == pytest.approx(factor, abs=6e-4)


@given(st.sampled_from(["cosine_then_linear", "cosine", "cosine_eta2"]), st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_learning_rates_fall_and_stay_positive(schedule: str, epochs: int) -> None:
    factors = [learning_rate_factor(schedule, epoch, epochs) for epoch in range(epochs)]
    assert factors[0] == 1
    assert all(a > b > 0 for a, b in pairwise(factors))


CLASSES = torch.tensor([2, 0, 3])


def random_logits(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(3, 4, dtype=torch.float64, generator=generator)


def test_mse_gt_is_the_square_error_and_cross_entropy() -> None:
    logits, soft = random_logits(), random_logits(1)
    hard = -log_softmax(logits, axis=1)[range(3), CLASSES].mean()
    expected = ((logits - soft) ** 2).mean() + 0.1 * hard
    assert mse_gt_loss(logits, soft, CLASSES, ce_weight=0.1).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_kl_is_the_divergence_of_softened_probabilities(temperature: float) -> None:
    logits, soft = random_logits(), random_logits(1)
    p, q = softmax(soft / temperature, axis=1), softmax(logits / temperature, axis=1)
    loss = kd_kl_loss(logits, soft, temperature=temperature)
    assert loss.item() == pytest.approx(rel_entr(p, q).sum(1).mean())


def test_cutmix_shares_the_cross_entropy() -> None:
    logits, other = random_logits(), torch.tensor([1, 0, 2])
    fraction = torch.tensor([0.0, 0.3, 1.0])
    costs = -torch.from_numpy(log_softmax(logits.numpy(), axis=1))
    shares = (1 - fraction) * costs[range(3), CLASSES] + fraction * costs[range(3), other]
    loss = cutmix_cross_entropy(logits, CLASSES, other, fraction)
    assert loss.item() == pytest.approx(shares.mean().item(), rel=1e-6)


# -- evaluation ------------------------------------------------------------------------------


def evaluate_logits(
    run: Run, monkeypatch: pytest.MonkeyPatch, logits: Tensor, labels: Tensor
) -> EvalResult:
    """Evaluate a student whose logits for the held-out images are given."""

    def given_batches(*_: object) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(logits.split(64), labels.split(64), strict=True)

    monkeypatch.setattr(student_module, "batches", given_batches)
    return evaluate(nn.Identity(), open_dataset(run.settings), CPU)


def test_scores_are_counted_image_by_image(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 10, generator=generator)
    labels = torch.randint(0, 9, (200,), generator=generator)  # class 9 has no images
    result = evaluate_logits(run, monkeypatch, logits, labels)

    counts: dict[tuple[int, int], int] = {}
    top1, top5 = 0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(10), key=lambda c, row=row: -row[c])
        counts[label, ranked[0]] = counts.get((label, ranked[0]), 0) + 1
        top1 += ranked[0] == label
        top5 += label in ranked[:5]
    assert (result.top1, result.top5) == (top1 / 200, top5 / 200)
    costs = -log_softmax(logits.double().numpy(), axis=1)
    assert result.loss == pytest.approx(sum(costs[i, c] for i, c in enumerate(labels)) / 200)
    assert {(label, predicted): n for label, predicted, n in result.confusions} == counts
    assert result.confusions == sorted(result.confusions)
    assert result.per_class[9] is None
    for c in range(9):
        total = sum(n for (label, _), n in counts.items() if label == c)
        assert result.per_class[c] == counts.get((c, c), 0) / total
