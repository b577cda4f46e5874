"""Ensembles against a slow version in plain numbers."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prism_nb.core.config import load_settings
from prism_nb.data.augment import BatchAugParams, epoch_params, render
from prism_nb.models import ensemble
from prism_nb.models.ensemble import EnsembleLabeler, combine_logits
from tests.helpers.teachers import teacher_of

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


def test_means_are_plain_or_weighted_by_a_softmax_of_accuracies_in_percent() -> None:
    blocks = blocks_of()
    assert torch.allclose(together("mean", blocks), sum(blocks) / 3, rtol=1e-12)
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


# -- the labeler -----------------------------------------------------------------------------

POOL = ("test_resnet", "test_byobnet")


def labeler_of(names: tuple[str, ...] = POOL, **changes: Any) -> EnsembleLabeler:
    settings = load_settings("digits_quick", {"teachers": POOL, "label_teachers": names, **changes})
    return EnsembleLabeler(settings, [teacher_of(name) for name in names], [1.0] * len(names))


def views_of(count: int = 20) -> tuple[Tensor, BatchAugParams]:
    """Return random images, two per class, and an epoch of views of them."""
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images, epoch_params(load_settings("digits_quick"), count, 0, torch.device("cpu"))


@pytest.mark.parametrize("batch", [2, 5, 256])
def test_labels_do_not_depend_on_the_batch_size(batch: int) -> None:
    labels, whole = (labeler_of(label_batch=size)(*views_of()) for size in (batch, 20))
    assert torch.allclose(labels, whole, atol=1e-4)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_blocks_have_every_image_once_and_all_classes(
    statistics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "LABEL_BLOCK", 12)
    labeler = labeler_of(label_statistics=statistics)
    blocks = list(labeler.blocks(*views_of()))
    assert [len(rows) for rows, _ in blocks] == [10, 10]
    assert sorted(int(row) for rows, _ in blocks for row in rows) == list(range(20))
    if statistics == "running":
        assert all((rows // 2).tolist() == list(range(10)) for rows, _ in blocks)
    labels = labeler(*views_of())
    for rows, logits in blocks:
        assert torch.equal(labels[rows], labeler.combine(logits))


def test_batch_statistics_are_those_of_training_and_leave_no_trace() -> None:
    labeler = labeler_of(("test_resnet",), label_statistics="batch", label_batch=20)
    (teacher,) = labeler.teachers
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    images, params = views_of()
    ((rows, (logits,)),) = labeler.blocks(images, params)
    found = torch.empty_like(logits).index_copy(0, rows, logits)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    torch.nn.Module.train(teacher.network, True)
    expected = teacher.network(render(images, params, torch.arange(20)))
    assert torch.allclose(found, expected, atol=1e-4)


def literal_bn(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalise by the mean and biased variance of the batch."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    scale, shift = layer.weight[:, None, None], layer.bias[:, None, None]
    return (x - mean) / (variance + layer.eps).sqrt() * scale + shift


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_batch_labels_are_those_of_a_literal_network_batch_by_batch(name: str) -> None:
    bssl = {"protocol": "bssl", "teachers": POOL, "label_teachers": POOL[:1]}
    labeler = EnsembleLabeler(load_settings("digits_quick", bssl), [teacher_of(name)], [1.0])
    images, params = views_of(20)
    found = labeler(images, params)
    literal = teacher_of(name, double=True).network
    for layer in literal.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = functools.partial(literal_bn, layer)
    order = params.mix_index.long()
    for rows in (order[:7], order[7:14], order[14:]):  # at most eight, and alike in number
        expected = literal(render(images, params, rows).double())
        torch.testing.assert_close(found[rows].double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("batch", "count", "expected"), [(8, 18, [6, 6, 6]), (2, 5, [2, 3]), (2, 3, [3])]
)
def test_batch_statistics_are_never_those_of_a_small_rest(
    batch: int, count: int, expected: list[int]
) -> None:
    labeler = labeler_of(("test_resnet",), label_statistics="batch", label_batch=batch)
    sizes: list[int] = []
    labeler.teachers[0].register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    labeler(*views_of(count))
    assert sizes == expected


def test_labels_in_half_precision_differ_a_little() -> None:
    full, half = (
        labeler_of(("test_resnet",), label_precision=precision)(*views_of(6))
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.05 * full.norm()
