"""Pools by name: they stand for networks that exist, and say which have no batch norm."""

from __future__ import annotations

import pytest

from prism_nb.config import load_settings
from prism_nb.errors import UsageError
from prism_nb.pools import pool_names, pool_networks
from prism_nb.teachers.networks import architecture_of, build_network
from prism_nb.teachers.sources import find_source
from prism_nb.teachers.teacher import require_bn

BN_LESS = {"alexnet@IMAGENET1K_V1"}
NETWORKS = sorted({network for pool in pool_names() for network in pool_networks(pool)})


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_a_pool_has_published_weights_and_batch_norm_or_is_known_not_to(
    name: str,
) -> None:
    assert find_source(name).head == 1000
    network = build_network(architecture_of(name), classes=2, image_size=224)
    if name not in BN_LESS:
        require_bn(name, network)
        return
    with pytest.raises(UsageError, match="no BN layers"):
        require_bn(name, network)


def test_the_wide_pool_can_give_statistics_throughout() -> None:
    assert not BN_LESS & set(pool_networks("imagenet1k_wide"))
    assert set(pool_networks("imagenet1k")) & BN_LESS


def test_a_pools_name_stands_for_its_networks() -> None:
    changes = {"teachers": "imagenet1k_wide", "primary": "resnet18@IMAGENET1K_V1"}
    settings = load_settings("digits_quick", changes)
    assert settings.teachers == tuple(pool_networks("imagenet1k_wide"))
    assert load_settings("digits_quick", {"teachers": ["test_resnet"]}).teachers == ("test_resnet",)


def test_an_unknown_pool_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="got 'imagenet'; .*pools: did you mean.*'imagenet1k'"):
        load_settings("digits_quick", {"teachers": "imagenet"})


@pytest.mark.parametrize("ipc", [1, 10, 50, 100])
def test_imagenets_presets_hold_the_published_pool_and_settings(ipc: int) -> None:
    settings = load_settings(f"imagenet1k_ipc{ipc}")
    assert settings.ipc == ipc
    assert {*settings.teachers, "alexnet@IMAGENET1K_V1"} == set(pool_networks("imagenet1k"))
    assert settings.recipe_of("prism").iterations == 4000
    assert (settings.label_epochs, settings.student_batch) == (300, 50)
