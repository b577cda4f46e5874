"""How logits are stored: what each form keeps, against the slow way, and what it costs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prism_nb.evaluation.label_store import decode, encode, row_bytes

KINDS = ("fp32", "fp16", "int8", "top_k")


def logits_of(rows: int = 9, classes: int = 20, scale: float = 5.0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows)) * scale


def test_single_precision_is_kept_to_the_bit_and_half_to_its_rounding() -> None:
    logits = logits_of()
    assert torch.equal(decode(encode(logits, "fp32", top_k=3), 20), logits)
    assert torch.equal(decode(encode(logits, "fp16", top_k=3), 20), logits.half())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_bytes_are_within_half_a_level_of_each_row(rows: int, classes: int, scale: float) -> None:
    logits = logits_of(rows, classes, scale)
    back = decode(encode(logits, "int8", top_k=1), classes)
    level = (logits.amax(1) - logits.amin(1)) / 254
    assert ((back - logits).abs().amax(1) <= 0.501 * level + 1e-5 * scale).all()


def test_a_constant_row_survives_as_bytes() -> None:
    logits = torch.full((2, 5), 3.25)
    assert torch.equal(decode(encode(logits, "int8", top_k=1), 5), logits)


def test_the_largest_are_kept_and_the_rest_is_spread_evenly() -> None:
    logits, count = logits_of(classes=20), 4
    back = decode(encode(logits, "top_k", top_k=count), 20)
    for row, kept in zip(logits.double().tolist(), back.double().tolist(), strict=True):
        largest = sorted(range(20), key=lambda c: -row[c])[:count]
        total = sum(math.exp(value) for value in row)
        left = 1 - sum(math.exp(row[c]) for c in largest) / total
        kept_total = sum(math.exp(value) for value in kept)
        for c in range(20):
            expected = math.exp(row[c]) / total if c in largest else left / (20 - count)
            assert math.exp(kept[c]) / kept_total == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("count", [20, 50])
def test_keeping_all_of_them_is_half_precision(count: int) -> None:
    logits = logits_of()
    back = decode(encode(logits, "top_k", top_k=count), 20)
    assert torch.equal(back, logits.half().float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [3, 10, 1000, 40_000])
def test_the_estimate_of_the_size_is_the_size(kind: str, classes: int) -> None:
    fields = encode(torch.randn(2, classes), kind, top_k=10)
    size = sum(value.numel() * value.element_size() for value in fields.values())
    assert size == 2 * row_bytes(kind, classes, top_k=10)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_logits_of_another_number_of_classes_are_refused(kind: str) -> None:
    fields = encode(logits_of(classes=20), kind, top_k=3)
    with pytest.raises(ValueError, match="20 classes, not 19"):
        decode(fields, 19)


def test_a_kept_class_that_does_not_exist_is_refused() -> None:
    fields = encode(logits_of(classes=20), "top_k", top_k=20)
    with pytest.raises(ValueError, match="class 19, but there are 5 classes"):
        decode(fields, 5)
