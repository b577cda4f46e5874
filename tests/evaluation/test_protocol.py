"""Schedules, losses and optimizers of the protocols against plain arithmetic."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prism_nb.evaluation.student import (
    cutmix_cross_entropy,
    kd_kl_loss,
    learning_rate_factor,
    mse_gt_loss,
    new_optimizer,
    parameter_groups,
)

CLASSES = torch.tensor([2, 0, 3])


def logits_of(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(3, 4, dtype=torch.float64, generator=generator)).requires_grad_()


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    raw = [math.exp(value / temperature) for value in row]
    return [value / sum(raw) for value in raw]


def cross_entropy(row: list[float], c: int) -> float:
    return -math.log(softmax(row)[c])


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1.0), (100, 0.957), (200, 0.835), (250, 0.750), (251, 0.1225), (299, 0.0025)],
)
def test_the_slow_drop_has_the_published_values(epoch: int, factor: float) -> None:
    assert learning_rate_factor("cosine_then_linear", epoch, 300) == pytest.approx(factor, abs=6e-4)


@pytest.mark.parametrize(
    ("schedule", "begin", "middle", "end"),
    [
        ("cosine", 1.0, 0.5, 0.0),
        ("cosine_eta2", 1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5),
        ("constant", 1.0, 1.0, 1.0),
    ],
)
def test_cosines_end_where_they_say(schedule: str, begin: float, middle: float, end: float) -> None:
    found = [learning_rate_factor(schedule, epoch, 10_000) for epoch in (0, 5_000, 9_999)]
    assert found == pytest.approx([begin, middle, end], abs=1e-3)


@given(st.sampled_from(["cosine_then_linear", "cosine", "cosine_eta2"]), st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_step_sizes_fall_and_stay_positive(schedule: str, epochs: int) -> None:
    factors = [learning_rate_factor(schedule, epoch, epochs) for epoch in range(epochs)]
    assert factors[0] == 1
    assert all(a > b > 0 for a, b in pairwise(factors))


def test_logits_are_matched_by_squares_and_a_share_of_cross_entropy() -> None:
    logits, soft = logits_of(), logits_of(1).detach()
    rows, targets = logits.tolist(), soft.tolist()
    mse = sum(
        (a - b) ** 2 for r, t in zip(rows, targets, strict=True) for a, b in zip(r, t, strict=True)
    )
    ce = sum(cross_entropy(r, c) for r, c in zip(rows, CLASSES.tolist(), strict=True))
    loss = mse_gt_loss(logits, soft, CLASSES, ce_weight=0.1)
    assert loss.item() == pytest.approx(mse / 12 + 0.1 * ce / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    one_hot = torch.eye(4, dtype=torch.float64)[CLASSES]
    expected = 2 * (logits - soft) / 12 + 0.1 * (logits.softmax(1) - one_hot) / 3
    assert torch.allclose(gradient, expected)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_softened_probabilities_are_matched_by_their_divergence(temperature: float) -> None:
    logits, soft = logits_of(), logits_of(1).detach()
    total = 0.0
    for mine, theirs in zip(logits.tolist(), soft.tolist(), strict=True):
        p, q = softmax(theirs, temperature), softmax(mine, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    loss = kd_kl_loss(logits, soft, temperature=temperature)
    assert loss.item() == pytest.approx(total / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    difference = (logits / temperature).softmax(1) - (soft / temperature).softmax(1)
    assert torch.allclose(gradient, difference / temperature / 3)


def test_mixed_classes_share_the_cross_entropy() -> None:
    logits, other = logits_of(), torch.tensor([1, 0, 2])
    share = torch.tensor([0.0, 0.3, 1.0])
    triples = zip(logits.tolist(), CLASSES.tolist(), other.tolist(), share.tolist(), strict=True)
    expected = sum(
        (1 - s) * cross_entropy(row, a) + s * cross_entropy(row, b) for row, a, b, s in triples
    )
    loss = cutmix_cross_entropy(logits, CLASSES, other, share)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-6)


def test_vectors_do_not_decay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decaying, still = parameter_groups(network, weight_decay=0.01)
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.01, 0.0)
    assert [p.ndim for p in decaying["params"]] == [4, 2]
    assert [p.ndim for p in still["params"]] == [1, 1, 1, 1]


@pytest.mark.parametrize(("kind", "cls"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimisers_are_what_they_are_called(kind: str, cls: type[torch.optim.Optimizer]) -> None:
    optimizer = new_optimizer(nn.Linear(3, 2), kind, lr=0.1, weight_decay=0.2)
    assert type(optimizer) is cls
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
