"""A student repeats from its seed, goes on where it was interrupted, and learns in every way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prism_nb.core.errors import PrismError
from prism_nb.core.settings import Student
from prism_nb.data.augment import render_batches, sample_epoch_params
from prism_nb.data.small import Digits
from prism_nb.evaluation.label_store import EpochLabels
from prism_nb.evaluation.student import (
    Row,
    StudentData,
    StudentTrainer,
    train_student,
)
from prism_nb.models.checkpoint import Checkpoint

PLAN = Student.model_validate(
    {"epochs": 12, "batch": 25, "lr": 5e-3, "temperature": 2.0, "evaluate_every": 4}
)


def replace(plan: Student, **changes: Any) -> Student:
    return plan.model_copy(update=changes)


def test_batches_hold_every_image_and_no_single_one() -> None:
    for count, size in ((51, 50), (50, 50), (100, 33), (2, 50), (7, 2)):
        parts = render_batches(torch.randperm(count), size)
        assert sorted(torch.cat(parts).tolist()) == list(range(count))
        assert all(len(part) > 1 for part in parts)


def material(*, hard: bool = False) -> StudentData:
    digits = Digits(32)
    places = [int(p) for c in range(10) for p in digits.class_indices("train", c)[:10]]
    images = digits.normalize(digits.images("train", places))
    classes = torch.arange(10).repeat_interleave(10)

    def labels_of(epoch: int) -> EpochLabels:
        generator = torch.Generator().manual_seed(epoch)
        views = sample_epoch_params(
            100, 32, crop_min=0.8, flip=False, mix="none", generator=generator
        )
        return EpochLabels(views, None if hard else torch.eye(10)[classes] * 8)

    return StudentData(images, classes, labels_of)


def train(
    plan: Student = PLAN,
    *,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda values: None,
    seed: int = 1,
) -> tuple[nn.Module, list[Row]]:
    taught = material(hard=plan.loss == "ce")
    name, digits = "test_byobnet", Digits(32)
    student, rows, verdict = train_student(
        name, digits, taught, plan, on_epoch, checkpoint, epochs=plan.epochs or 0, seed=seed
    )
    assert verdict.top1 == rows[-1]["top1"] <= verdict.top5 == rows[-1]["top5"]
    return student, rows


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


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


CHANCE = 0.1  # of ten classes


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "kl"},
        {"loss": "ce"},
        {"optimizer": "sgd", "lr": 0.05, "loss": "ce"},
        {"ema": 0.8},
        {"schedule": "cosine"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_a_student_learns_by_every_protocol(changes: dict[str, Any]) -> None:
    student, rows = train(replace(PLAN, **changes))
    assert all(weight.dtype == torch.float32 for weight in student.parameters())
    assert rows[-1]["top1"] > 3 * CHANCE
    assert rows != train()[1]


class _Killed(Exception):  # noqa: N818
    """Stands for a signal that ends a process."""


def interrupted(plan: Student, path: Path, *, after: int) -> None:
    """Train until an epoch has passed, and be killed in the next."""

    def die(values: dict[str, Any]) -> None:
        if values["step"] > after:
            raise _Killed

    with pytest.raises(_Killed):
        train(plan, checkpoint=Checkpoint(path, "same", every=0), on_epoch=die)


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9}, {"optimizer": "sgd", "lr": 0.05, "loss": "ce"}], ids=str
)
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plan, path = replace(PLAN, **changes), tmp_path / "checkpoint.safetensors"
    undisturbed, rows = train(plan)
    for after in (3, 9):
        interrupted(plan, path, after=after)
        assert path.exists()
    steps: list[int] = []
    student, found = train(
        plan,
        checkpoint=Checkpoint(path, "same", every=0),
        on_epoch=lambda values: steps.append(values["step"]),
    )
    assert steps == [10, 11, 12]
    assert found == rows
    assert equal(student, undisturbed)


@pytest.mark.parametrize("damage", ["other", "torn", "empty"])
def test_a_checkpoint_that_does_not_fit_is_not_gone_on_from(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    interrupted(PLAN, path, after=5)
    if damage != "other":
        path.write_bytes(path.read_bytes()[:-50] if damage == "torn" else b"")
    steps: list[int] = []
    fingerprint = "other" if damage == "other" else "same"
    train(
        checkpoint=Checkpoint(path, fingerprint),
        on_epoch=lambda values: steps.append(values["step"]),
    )
    assert steps == list(range(1, 13))


def test_a_checkpoint_waits_for_its_time(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train(replace(PLAN, epochs=2), checkpoint=Checkpoint(path, "same", every=3600))
    assert not path.exists()
    Checkpoint(path, "same").clear()


def test_the_averaged_copy_follows_by_its_decay() -> None:
    torch.manual_seed(0)
    pupil = StudentTrainer("test_byobnet", Digits(32), replace(PLAN, ema=0.9), torch.device("cpu"))
    images = torch.randn(8, 3, 32, 32)
    expected: dict[str, torch.Tensor] = {}
    for step in range(3):
        pupil.step(pupil.student(images).square().mean())
        for name, value in pupil.student.named_parameters():
            new = value.detach().double()
            expected[name] = new if step == 0 else 0.9 * expected[name] + 0.1 * new
    for name, value in pupil.judged.named_parameters():
        assert torch.allclose(value.double(), expected[name], atol=1e-5)
    assert not equal(pupil.judged, pupil.student)


def test_a_diverging_student_is_named() -> None:
    with pytest.raises(PrismError, match="test_byobnet diverged in epoch 1; lower student_lr"):
        train(replace(PLAN, optimizer="sgd", lr=1e30))
