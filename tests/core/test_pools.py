"""Pools by name: they stand for networks that exist, and say which have no batch norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.presets import POOLS, read_pool
from prism_nb.core.run import Run
from prism_nb.execution.open_run import load_run, preflight
from prism_nb.models.teacher import check_bn
from prism_nb.models.weights import resolve_weights
from prism_nb.models.zoo import architecture_of, build_network
from tests.helpers.image_trees import make_tree

POOLS = [read_pool(name) for name in POOLS.names()]
BN_LESS = {network for pool in POOLS for network in pool.label_only}
NETWORKS = sorted({network for pool in POOLS for network in pool.networks})
WNIDS = ["n01440764", "n01443537"]
RESNET = "resnet18@IMAGENET1K_V1"
ALEXNET = "alexnet@IMAGENET1K_V1"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_a_pool_has_published_weights_and_batch_norm_or_is_known_not_to(
    name: str,
) -> None:
    assert resolve_weights(name).head == 1000
    network = build_network(architecture_of(name), classes=2, image_size=224)
    if name not in BN_LESS:
        check_bn(name, network)
        return
    with pytest.raises(UsageError, match="no BN layers"):
        check_bn(name, network)


def test_the_wide_pool_can_give_statistics_throughout() -> None:
    assert not read_pool("imagenet1k_wide").label_only
    assert read_pool("imagenet1k").label_only == (ALEXNET,)


def test_a_pools_name_stands_for_its_networks() -> None:
    changes = {"teachers": "imagenet1k_wide", "primary": RESNET}
    settings = load_settings("digits_quick", changes)
    assert settings.teachers == read_pool("imagenet1k_wide").teachers
    assert settings.holdout_networks == load_settings("digits_quick").holdout_networks
    assert settings.label.teachers == ()
    assert load_settings("digits_quick", {"teachers": ["test_resnet"]}).teachers == ("test_resnet",)


def test_networks_that_only_label_stand_among_the_observers_whoever_else_does() -> None:
    changes: dict[str, Any] = {"teachers": "imagenet1k", "primary": RESNET}
    settings = load_settings("digits_quick", changes)
    assert settings.teachers == read_pool("imagenet1k").teachers
    assert settings.holdout_networks == ("test_mambaout", ALEXNET)
    assert settings.label_teachers_used == (*settings.teachers, ALEXNET)
    own = load_settings("digits_quick", {**changes, "label_teachers": [RESNET]})
    assert own.label_teachers_used == (RESNET,)
    twice = load_settings("digits_quick", {**changes, "holdout_networks": [ALEXNET]})
    assert twice.holdout_networks == (ALEXNET,)
    with pytest.raises(
        UsageError, match="holdout_networks: Input should be a valid list, got 'abc'"
    ):
        load_settings("digits_quick", {**changes, "holdout_networks": "abc"})


def test_the_published_pool_passes_the_preflight_of_the_published_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights: networks are built afresh
    changes: dict[str, Any] = {"teachers": "imagenet1k", "primary": RESNET, "fetch_weights": True}
    changes |= {"methods": ["prism"], "data_dir": str(make_tree(tmp_path / "t", WNIDS))}
    changes |= {"dataset": "folder", "holdout_networks": [], "ipc": 1, "squeeze_batch": 2}
    dataset = preflight(load_settings("digits_quick", changes))
    assert [info.folder for info in dataset.classes] == WNIDS


def test_a_pool_joins_a_run_that_exists(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", load_settings("digits_quick"))
    changes = {"teachers": "imagenet1k", "primary": RESNET}
    found = load_run(run_name="r", runs_dir=tmp_path, changes=changes)
    assert run.settings.holdout_networks == ("test_mambaout",)
    assert found.settings.holdout_networks == ("test_mambaout", ALEXNET)


def test_an_unknown_pool_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="got 'imagenet'; .*pools: did you mean.*'imagenet1k'"):
        load_settings("digits_quick", {"teachers": "imagenet"})


@pytest.mark.parametrize("ipc", [1, 10, 50, 100])
def test_imagenets_presets_hold_the_published_pool_and_settings(ipc: int) -> None:
    settings = load_settings(f"imagenet1k_ipc{ipc}")
    assert settings.ipc == ipc
    assert settings.teachers == read_pool("imagenet1k").teachers
    assert {*settings.holdout_networks} > {*read_pool("imagenet1k").label_only}
    assert settings.recipe_of("prism").iterations == 4000
    assert (settings.label.epochs, settings.student.batch) == (300, 50)
