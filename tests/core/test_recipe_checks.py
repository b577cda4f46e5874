"""Recipes that a pool and a number of images do not allow."""

from __future__ import annotations

from typing import Any

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError

BY_INDEX = {"targets": "image_index"}
BY_CLASS = {"targets": "class", "batches": "class_wise"}


@pytest.mark.parametrize(
    ("own", "changes", "message"),
    [
        ({"bn_subset_size": 4}, {}, "bn_subset_size is 4, but the pool has 3 candidates"),
        ({"selection": "fixed", "bn_fixed": ["x"]}, {}, "bn_fixed names 'x', which is not in"),
        ({"bn_fixed": ["test_byobnet"] * 2}, {}, "bn_fixed names a network twice"),
        (
            {"selection": "fixed", "bn_fixed": ["test_resnet"], "primary_in_bn": "never"},
            {},
            "bn_fixed names the primary, but primary_in_bn is never",
        ),
        (
            {"primary_in_bn": "never", "selection": "all"},
            {"teachers": ["test_resnet"]},
            "method two: no BN teacher: primary_in_bn is never",
        ),
        ({"primary_in_bn": "never", "bn_slot_prob": 0}, {}, "method two: no BN teacher"),
        ({"batches": "class_wise"}, {"ipc": 1}, "batches class_wise would hold one image"),
        ({"early_late_step": 20}, {}, "image index 1 would get 0 steps"),
        ({"early_late_step": 1, "delt_start_gap": 1}, {}, "delt_start_gap goes neither with"),
        ({**BY_INDEX, "batches": "class_wise"}, {}, "batches class_wise would hold one image"),
        ({**BY_INDEX, "statistics": "bn_conv"}, {}, "image_index go with statistics bn alone"),
        ({**BY_CLASS, "statistics": "bn_conv"}, {}, "class go with statistics bn alone"),
        ({"targets": "class"}, {}, "targets class do not go with batches cross_class"),
        (
            {"init": "forgetting"},
            {"teachers": ["resnet18@V1"], "primary": "resnet18@V1"},
            "the primary 'resnet18@V1' has given weights, .* name its architecture",
        ),
        ({"image_source": "imported"}, {}, "no source; name the images"),
    ],
)
def test_recipes_that_cannot_be_carried_out_are_refused(
    own: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    method = {"methods": ["two"], "recipes": {"two": {"base": "prism", **own}}}
    with pytest.raises(UsageError, match=message):
        load_settings("digits_quick", {**method, **changes})
