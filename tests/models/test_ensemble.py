"""Ensembles against a slow version in plain numbers."""

import math

import pytest
import torch
from torch import Tensor

from prism_nb.models.ensemble import combine_logits

KINDS = ("norm_balanced", "primary_half", "mean", "accuracy")
ACCURACIES = (0.95, 0.9, 0.7)


def blocks_of(count: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(5, 4, dtype=torch.float64) * scale for scale in (1.0, 7.0, 0.2)[:count]]


def together(kind: str, blocks: list[Tensor], *, primary: int = 1) -> Tensor:
    return combine_logits(kind, blocks, primary=primary, accuracies=ACCURACIES[: len(blocks)])


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def test_balanced_norms_give_every_network_the_mean_scale() -> None:
    blocks = blocks_of()
    norms = [norm(block.flatten().tolist()) for block in blocks]
    expected = sum(b / n * sum(norms) / 3 for b, n in zip(blocks, norms, strict=True)) / 3
    assert torch.allclose(together("norm_balanced", blocks), expected, rtol=1e-12)


def test_half_belongs_to_the_primary_and_rows_are_equally_long() -> None:
    blocks = blocks_of()
    mixed = [
        [0.5 * b + 0.25 * a + 0.25 * c for a, b, c in zip(*rows, strict=True)]
        for rows in zip(*(block.tolist() for block in blocks), strict=True)
    ]
    lengths = [norm(row) for row in mixed]
    mean = sum(lengths) / len(lengths)
    expected = [[v / n * mean for v in row] for row, n in zip(mixed, lengths, strict=True)]
    found = together("primary_half", blocks)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12)
    assert not torch.allclose(found, together("primary_half", blocks, primary=0))


def test_the_plain_mean_is_the_mean() -> None:
    a, b, c = blocks_of()
    assert torch.allclose(together("mean", [a, b, c]), (a + b + c) / 3, rtol=1e-12)


def test_accuracies_weigh_by_a_softmax_of_their_percent() -> None:
    blocks = blocks_of()
    raw = [math.exp(100 * accuracy / 5) for accuracy in ACCURACIES]
    expected = sum(w / sum(raw) * b for w, b in zip(raw, blocks, strict=True))
    assert torch.allclose(together("accuracy", blocks), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["norm_balanced", "mean", "accuracy"])
def test_one_network_alone_is_left_as_it_is(kind: str) -> None:
    (block,) = blocks_of(1)
    assert torch.allclose(together(kind, [block]), block, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_that_say_nothing_are_no_division_by_zero(kind: str) -> None:
    assert torch.equal(together(kind, [torch.zeros(3, 4)] * 3), torch.zeros(3, 4))
