"""The protocol: schedule, loss, weight decay, and a student that repeats."""

import math

import pytest
import torch
from torch import Tensor, nn

from prism_nb.artifacts.labels import EpochLabels
from prism_nb.artifacts.views import draw_views
from prism_nb.data.digits import Digits
from prism_nb.evaluation.protocol import learning_rate_factor, parameter_groups, student_loss
from prism_nb.evaluation.student import Curriculum, _batches, train_student


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1.0), (100, 0.957), (200, 0.835), (250, 0.750), (251, 0.1225), (299, 0.0025)],
)
def test_the_schedule_has_the_published_values(epoch: int, factor: float) -> None:
    assert learning_rate_factor(epoch, 300) == pytest.approx(factor, abs=6e-4)


def test_the_loss_is_mse_plus_a_share_of_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    soft, classes = torch.randn(3, 4, dtype=torch.float64), torch.tensor([2, 0, 3])
    rows, targets = logits.tolist(), soft.tolist()
    mse = sum(
        (a - b) ** 2 for r, t in zip(rows, targets, strict=True) for a, b in zip(r, t, strict=True)
    )
    ce = sum(
        math.log(sum(math.exp(v) for v in r)) - r[c] for r, c in zip(rows, classes, strict=True)
    )
    loss = student_loss(logits, soft, classes, hard_weight=0.1)
    assert loss.item() == pytest.approx(mse / 12 + 0.1 * ce / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    one_hot = torch.eye(4, dtype=torch.float64)[classes]
    expected = 2 * (logits - soft) / 12 + 0.1 * (logits.softmax(1) - one_hot) / 3
    assert torch.allclose(gradient, expected)


def test_vectors_do_not_decay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decaying, still = parameter_groups(network, weight_decay=0.01)
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.01, 0.0)
    assert [p.ndim for p in decaying["params"]] == [4, 2]
    assert [p.ndim for p in still["params"]] == [1, 1, 1, 1]


def test_batches_hold_every_image_and_no_single_one() -> None:
    for count, size in ((51, 50), (50, 50), (100, 33), (2, 50), (7, 2)):
        parts = _batches(count, size)
        assert sorted(torch.cat(parts).tolist()) == list(range(count))
        assert all(len(part) > 1 for part in parts)


def labels_of(images: Tensor, classes: Tensor) -> EpochLabels:
    views = draw_views(
        len(images),
        32,
        crop_min=0.8,
        flip=False,
        mix="none",
        generator=torch.Generator().manual_seed(0),
    )
    return EpochLabels(views, torch.eye(10)[classes] * 8)


def train(seed: int, precision: str = "fp32") -> tuple[nn.Module, list[dict[str, float]]]:
    digits = Digits(32)
    places = [int(p) for c in range(10) for p in digits.of_class("train", c)[:10]]
    images = digits.canonical(digits.images("train", places))
    classes = torch.arange(10).repeat_interleave(10)
    labels = labels_of(images, classes)
    plan = Curriculum(12, 25, 5e-3, 0.01, 0.1, 4, seed, precision)
    return train_student(
        "test_byobnet", digits, images, classes, lambda e: labels, plan, lambda v: None
    )


def test_a_student_learns_and_repeats_from_its_seed() -> None:
    state = torch.random.get_rng_state()
    first, rows = train(seed=1)
    again, rows_again = train(seed=1)
    _, other = train(seed=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [row["epoch"] for row in rows] == [4, 8, 12]
    assert rows[-1]["top1"] > 0.5
    assert rows == rows_again != other
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_student_learns_in_half_precision_with_weights_in_full() -> None:
    student, rows = train(seed=1, precision="bf16")
    assert all(weight.dtype == torch.float32 for weight in student.parameters())
    assert rows[-1]["top1"] > 0.5
    assert rows != train(seed=1)[1]
