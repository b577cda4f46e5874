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
        ({"bn_subset_size": 4}, {}, "bn_subset_size is 4, but the pool holds only 3 candidates"),
        ({"selection": "fixed", "bn_fixed": ["x"]}, {}, "bn_fixed names 'x', which is not in"),
        ({"bn_fixed": ["test_byobnet"] * 2}, {}, "bn_fixed names a network twice"),
        (
            {"selection": "fixed", "bn_fixed": ["test_resnet"], "primary_in_bn": "never"},
            {},
            "bn_fixed names the primary 'test_resnet', but",
        ),
        (
            {"primary_in_bn": "never", "selection": "all"},
            {"teachers": ["test_resnet"]},
            "method two: no BN teacher: .* 'never'",
        ),
        ({"primary_in_bn": "never", "bn_slot_prob": 0}, {}, "method two: no BN teacher"),
        ({"batches": "class_wise"}, {"ipc": 1}, "class-wise batches, which at ipc 1"),
        ({"batches": "class_wise", "early_late_step": 5}, {}, "or with early_late_step"),
        ({"early_late_step": 20}, {}, "image index 1 would get 0 steps"),
        ({"early_late_step": 1, "delt_start_gap": 1}, {}, "all image indices in one unit; set"),
        ({**BY_INDEX, "delt_start_gap": 1}, {}, "all image indices in one unit; set"),
        ({**BY_INDEX, "batches": "class_wise"}, {}, "or targets image_index, hold one image"),
        ({**BY_INDEX, "statistics": "bn_conv"}, {}, "targets image_index are of BN layers, but"),
        ({**BY_CLASS, "statistics": "bn_conv"}, {}, "targets class are of BN layers, but"),
        ({"targets": "class"}, {}, "targets are of one class, but batches cross_class have"),
        (
            {"init": "forgetting"},
            {"teachers": ["resnet18@V1"], "primary": "resnet18@V1"},
            "the primary 'resnet18@V1' has given weights; name an architecture",
        ),
        ({"image_source": "imported"}, {}, "no source; name the folder"),
    ],
)
def test_recipes_that_cannot_be_carried_out_are_refused(
    own: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    method = {"methods": ["two"], "recipes": {"two": {"base": "prism", **own}}}
    with pytest.raises(UsageError, match=message):
        load_settings("digits_quick", {**method, **changes})
