"""Preflight: what cannot work is refused by name, and what can passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.registry import open_dataset
from prism_nb.execution import preflight as preflight_module
from prism_nb.execution.cost import StepCounter, Use
from prism_nb.execution.disk_space import weight_bytes
from prism_nb.execution.preflight import check_network, preflight
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.weights_file import to_safetensors, weights_metadata
from prism_nb.models.zoo import build_network, count_flops
from prism_nb.viz.widgets.pool_preview import pool_network_info

MEDIAN = {"init": "real_median", "delt_start_gap": 1}  # over what the preset sets for all methods


def test_the_presets_pass() -> None:
    assert preflight(load_settings("digits_quick")).name == "digits"
    assert preflight(load_settings("digits")).name == "digits"
    preflight(load_settings("digits_quick", {"protocol": "bssl", "student_batch": 20}))
    preflight(load_settings("digits_quick", {"student_batch": 21}))  # nobody's protocol
    preflight(load_settings("digits_quick", {"protocol": "dc"}))  # one batch of all images


def test_prism_reference_takes_a_teacher_without_bn() -> None:
    changes = {"teachers": ["test_resnet", "test_convnext"], "methods": ["prism_reference"]}
    preflight(load_settings("digits_quick", changes))
    with pytest.raises(UsageError, match="'test_convnext' has no BN layers"):
        preflight(load_settings("digits_quick", {**changes, "primary": "test_convnext"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ["test_resnet", "test_convnext"]}, "'test_convnext' has no BN layers"),
        ({"students": ["googlenet"]}, "'googlenet' does not give one row of 10 logits"),
        ({"holdout_networks": ["alexnet"]}, "'alexnet' cannot take 32-pixel images"),
        ({"ipc": 500}, "random_real .* needs 500 training images per class.*lower ipc to 12"),
        ({"methods": ["prism"], "ipc": 500}, "the real reference of the diversity needs 500"),
        (
            {
                "methods": ["delt"],
                "recipes": {"delt": {**MEDIAN, "max_scored_images": 4}},
                "ipc": 5,
            },
            "method delt: max_scored_images is 4; raise it to 5",
        ),
        (
            {"methods": ["rded"], "recipes": {"rded": {"mosaic_grid": 2, "max_scored_images": 19}}}
            | {"ipc": 5},
            "method rded: max_scored_images is 19; raise it to 20",
        ),
        (
            {"methods": ["rded"], "recipes": {"rded": {"mosaic_grid": 3}}},
            "method rded: mosaic_grid 3 does not divide the image size 32; set it to 2",
        ),
        (
            {"methods": ["rded"], "recipes": {"rded": {"mosaic_grid": 2}}, "ipc": 32},
            "method rded .* needs 128 training images per class",
        ),
        (
            {"protocol": "bssl", "student_batch": 21},
            "student_batch is 21 .protocol bssl., .* 20 images in all; .* set student_batch to 20",
        ),
        (
            {"methods": ["k_center"], "primary": "squeezenet1_1", "teachers": ["squeezenet1_1"]},
            "network .squeezenet1_1. has no linear head",
        ),
        (
            {"methods": ["reta"], "primary": "squeezenet1_1", "logits_only": ["squeezenet1_1"]}
            | {"teachers": ["test_resnet", "squeezenet1_1"]}
            | {"recipes": {"reta": {"init": "patches", "logits": "primary"}}},
            "network .squeezenet1_1. has no linear head",
        ),
        ({"methods": ["psm"], "ipc": 500}, r"method psm \(difficulty groups\) needs 500"),
        (
            {"methods": ["prism_psm"], "teachers": ["test_resnet", "test_convnext"]}
            | {"recipes": {"prism_psm": {"no_bn_policy": "zero"}}},
            "'test_convnext' has no BN layers",
        ),
        ({"device": "cuda:99"}, "device is set to 'cuda:99'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    settings = load_settings("digits_quick", changes)
    with pytest.raises(UsageError, match=message):
        preflight(settings)


def test_build_arguments_decide_checks_and_numbers_and_are_read_again(tmp_path: Path) -> None:
    settings, file = load_settings("digits_quick"), tmp_path / "w.safetensors"
    dataset, name = open_dataset(settings), f"test_resnet@{file}"
    options = (("stem_width", 8),)
    other = build_network("test_resnet", classes=10, image_size=32, options=options)
    classes = [info.folder for info in dataset.classes]
    metadata = weights_metadata(classes, dataset_preprocess(dataset), options)
    file.write_bytes(to_safetensors(other.state_dict(), metadata))
    check_network(name, dataset, {"bn", "logits"})
    parameters = sum(parameter.numel() for parameter in other.parameters())
    assert pool_network_info(name, dataset).parameters == parameters
    assert weight_bytes(name, 10, 32) == sum(value.nbytes for value in other.state_dict().values())
    counted = StepCounter(settings, dataset).flop(Use("forward", name))
    assert counted == count_flops(other, image_size=32)
    plain = {**metadata.plain(), "build": {}}
    file.with_suffix(".yaml").write_text(write_yaml(plain))
    with pytest.raises(UsageError, match="are not of 'test_resnet'"):
        check_network(name, dataset, {"bn", "logits"})
    assert pool_network_info(name, dataset).parameters != parameters
    assert weight_bytes(name, 10, 32) != sum(value.nbytes for value in other.state_dict().values())


def dense_networks(name: str, *, classes: int, image_size: int) -> nn.Module:
    """Build a network; `mixer_b16_224` without any convolution."""
    if name != "mixer_b16_224":
        return build_network(name, classes=classes, image_size=image_size)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, classes))


def test_statistics_of_convolutions_need_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "build_network", dense_networks)
    teachers = {"teachers": ["test_resnet", "mixer_b16_224"], "methods": ["gvbsm"]}
    with pytest.raises(UsageError, match="'mixer_b16_224' has no convolutions"):
        preflight(load_settings("digits_quick", teachers))
    elsewhere = {"teachers": ["test_resnet"], "methods": ["gvbsm"], "students": ["mixer_b16_224"]}
    preflight(load_settings("digits_quick", elsewhere))
    own = {"bn_fixed": ["test_resnet"], "selection": "fixed"}
    preflight(load_settings("digits_quick", {**teachers, "recipes": {"gvbsm": own}}))


def test_the_primary_of_scaled_losses_needs_the_aligned_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight_module, "build_network", dense_networks)
    own = {"selection": "fixed", "bn_fixed": ["test_resnet"], "primary_in_bn": "never"}
    pool = {"teachers": ["test_resnet", "mixer_b16_224"], "primary": "mixer_b16_224"}
    for method, kind in (("prism", "BN layers"), ("gvbsm", "convolutions")):
        changes = {**pool, "methods": [method], "recipes": {method: own}}
        preflight(load_settings("digits_quick", changes))
        scaled = {**changes, "recipes": {method: {**own, "bn_normalize": "layers"}}}
        with pytest.raises(UsageError, match=f"'mixer_b16_224' has no {kind}"):
            preflight(load_settings("digits_quick", scaled))


@pytest.mark.parametrize(
    ("recipe", "ipc", "batch"),
    [
        ({"batches": "class_wise"}, 3, 2),
        ({"batches": "class_wise"}, 3, 1),
        ({"batches": "cross_class"}, 2, 1),
        ({"batches": "class_major"}, 3, 2),
    ],
)
def test_a_unit_of_a_single_image_is_refused(recipe: dict[str, Any], ipc: int, batch: int) -> None:
    changes = {"methods": ["prism"], "recipe": recipe, "ipc": ipc, "batch_size": batch}
    with pytest.raises(UsageError, match="method prism: a unit would be a single image"):
        preflight(load_settings("digits_quick", changes))
    preflight(load_settings("digits_quick", {**changes, "batch_size": 4, "ipc": 4}))
    preflight(load_settings("digits_quick", {**changes, "methods": ["random_real"]}))


def test_a_backend_that_cannot_submit_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r'Could not detect "srun".*cluster: local'):
        preflight(load_settings("digits_quick", {"backend": "slurm"}))
