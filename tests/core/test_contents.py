"""The digest of a file of tensors: equal where they are, and only there."""

from __future__ import annotations

import pytest
import torch

from prism_nb.core.torch_io import hash_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}


def test_order_and_layout_do_not_matter() -> None:
    other = {"b": TENSORS["b"], "a": TENSORS["a"].t().contiguous().t()}
    assert hash_tensors(other) == hash_tensors(TENSORS)


@pytest.mark.parametrize(
    "changed",
    [
        {**TENSORS, "a": TENSORS["a"] + 1},
        {**TENSORS, "a": TENSORS["a"].view(3, 2)},
        {**TENSORS, "a": TENSORS["a"].view(torch.int32)},
        {"c": TENSORS["a"], "b": TENSORS["b"]},
        {"a": TENSORS["a"]},
    ],
)
def test_values_shapes_types_and_names_matter(changed: dict[str, torch.Tensor]) -> None:
    assert hash_tensors(changed) != hash_tensors(TENSORS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_any_type_and_shape_has_one(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert len(hash_tensors({"a": torch.zeros(shape, dtype=dtype)})) == 64
