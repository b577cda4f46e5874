"""Settings that are well formed but cannot work are refused before any work, by name."""

from typing import Any

import pytest

from prism_nb.config import load_settings
from prism_nb.errors import UsageError
from prism_nb.preflight import preflight


def test_the_presets_pass() -> None:
    assert preflight(load_settings("digits_quick")).name == "digits"
    assert preflight(load_settings("digits")).name == "digits"


def test_the_published_program_takes_a_pool_with_a_network_without_bn() -> None:
    changes = {"teachers": ["test_resnet", "test_convnext"], "methods": ["prism_reference"]}
    preflight(load_settings("digits_quick", changes))
    with pytest.raises(UsageError, match="'test_convnext' has no BN layers"):
        preflight(load_settings("digits_quick", {**changes, "primary": "test_convnext"}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "digit"}, "unknown dataset 'digit'; did you mean 'digits'"),
        ({"teachers": ["test_resnet", "resnet81"]}, "unknown network 'resnet81'; did you mean"),
        ({"students": ["test_resnt"]}, "unknown network 'test_resnt'; did you mean 'test_resnet'"),
        ({"teachers": ["test_resnet", "test_convnext"]}, "'test_convnext' has no BN layers"),
        ({"students": ["googlenet"]}, "'googlenet' does not give one row of 10 logits"),
        ({"observers": ["alexnet"]}, "'alexnet' cannot take 32-pixel images"),
        ({"ipc": 500}, "random_real .* needs 500 training images per class.*lower ipc to 12"),
        (
            {"methods": ["prism"], "recipe": {"init": "real"}, "ipc": 500},
            "method prism .* needs 500",
        ),
        ({"squeeze_batch": 5000}, "squeeze_batch is 5000, but digits has only 1257"),
        ({"methods": ["prism"], "ipc": 500}, "the real reference of the diversity needs 500"),
        ({"device": "cuda:99"}, "device 'cuda:99' was asked for"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    settings = load_settings("digits_quick", changes)
    with pytest.raises(UsageError, match=words):
        preflight(settings)
