"""Protocols, pools, and where a clone keeps its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.paths import project_root
from prism_nb.core.presets import (
    POOLS,
    PROTOCOLS,
    presets,
    protocol_metadata,
    protocol_sentence,
    protocol_values,
)
from prism_nb.core.settings import Settings
from prism_nb.execution.preflight import preflight
from prism_nb.models.architectures import architecture_of
from prism_nb.models.teacher import check_bn
from prism_nb.models.weights import resolve_weights
from prism_nb.models.zoo import build_network
from tests.helpers.image_trees import make_tree

CLONE = Path(__file__).resolve().parents[2]
POOL = POOLS.read("imagenet1k")
WIDE = POOLS.read("imagenet1k_wide")
NETWORKS = sorted({*POOL["teachers"], *POOL["label_only"], *WIDE["teachers"]})
WNIDS = ["n01440764", "n01443537"]
RESNET = "resnet18@IMAGENET1K_V1"
ALEXNET = "alexnet@IMAGENET1K_V1"


def test_the_clone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_root() == CLONE  # the package's own
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no notebooks/presets in .*set PRISM_HOME"):
        project_root()
    folder = tmp_path / "notebooks" / "presets"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("ipc: 1\n")
    assert project_root() == tmp_path
    assert presets().names() == ["mine"]
    monkeypatch.delenv("PRISM_HOME")
    monkeypatch.chdir(folder)
    assert project_root() == tmp_path


# -- protocols -------------------------------------------------------------------------------


def test_protocols_differ_where_the_papers_do() -> None:
    values = {name: protocol_values(name) for name in PROTOCOLS.names()}
    assert set(values) == {
        *("bssl", "cda", "dc", "edc", "fair", "gvbsm", "prism", "rd3", "rded"),
        *("rethinkdc_hard", "rethinkdc_soft", "sre2l"),
    }
    assert values["fair"] == values["prism"]
    assert {n for n, v in values.items() if v["label_epochs"] != 300} == {"dc", "rd3"}
    assert [values[n]["student_batch"] for n in ("prism", "sre2l", "cda", "rded", "edc")] == [
        50, 1024, 128, 100, 100,
    ]  # fmt: skip
    assert {n for n, v in values.items() if v["student_loss"] == "mse_gt"} == {
        "edc", "fair", "gvbsm", "prism",
    }  # fmt: skip
    assert {n for n, v in values.items() if v["label_crop_min"] == 0.5} == {"rded", "edc", "rd3"}
    assert {n for n, v in values.items() if v["labels"] == "hard"} == {"dc", "rethinkdc_hard"}
    assert {n for n, v in values.items() if v["label_statistics"] == "batch"} == {"bssl"}
    soft, cda = values["rethinkdc_soft"], values["cda"]
    assert {n for n in cda if soft[n] != cda[n]} == {"labels"}  # made while a student trains
    assert values["edc"]["ce_weight"] == 0.025


def test_the_defaults_are_the_fair_protocol() -> None:
    plain = load_settings("digits_quick").plain()
    fields = Settings.fields()
    assert plain["protocol"] == "fair"
    assert all(fields[name].default == value for name, value in protocol_values("fair").items())


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_settings_override_their_protocol(name: str) -> None:
    settings = load_settings("digits_quick", {"protocol": name, "student_batch": 7})
    plain, published = settings.plain(), protocol_values(name)
    assert plain.items() >= {**published, "student_batch": 7}.items()
    title = protocol_metadata(name)["title"]
    assert protocol_sentence(plain) == (
        f"Protocol: {title}, but student_batch 7 (there {published['student_batch']})."
    )


# -- pools -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_pools_have_published_weights_and_bn(name: str) -> None:
    assert resolve_weights(name).head == 1000
    network = build_network(architecture_of(name), classes=2, image_size=224)
    if name not in POOL["label_only"]:
        check_bn(name, network)


def test_a_pools_name_is_replaced_by_its_networks() -> None:
    settings = load_settings("digits_quick", {"teachers": "imagenet1k_wide", "primary": RESNET})
    assert settings.teachers == tuple(WIDE["teachers"])
    assert settings.holdout_networks == load_settings("digits_quick").holdout_networks
    assert settings.label.teachers == ()
    with pytest.raises(UsageError, match="got 'imagenet'; .*pools: did you mean.*'imagenet1k'"):
        load_settings("digits_quick", {"teachers": "imagenet"})


def test_networks_that_only_label_are_holdout_networks() -> None:
    changes: dict[str, Any] = {"teachers": "imagenet1k", "primary": RESNET}
    settings = load_settings("digits_quick", changes)
    assert settings.holdout_networks == ("test_mambaout", ALEXNET)
    assert settings.label_teachers_used == (*settings.teachers, ALEXNET)
    own = load_settings("digits_quick", {**changes, "label_teachers": [RESNET]})
    assert own.label_teachers_used == (RESNET,)
    twice = load_settings("digits_quick", {**changes, "holdout_networks": [ALEXNET]})
    assert twice.holdout_networks == (ALEXNET,)
    with pytest.raises(UsageError, match="holdout_networks: Input should be a valid list"):
        load_settings("digits_quick", {**changes, "holdout_networks": "abc"})


def test_the_published_pool_passes_the_preflight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights: networks are built afresh
    changes: dict[str, Any] = {"teachers": "imagenet1k", "primary": RESNET, "fetch_weights": True}
    changes |= {"methods": ["prism"], "data_dir": str(make_tree(tmp_path / "t", WNIDS))}
    changes |= {"dataset": "folder", "holdout_networks": [], "ipc": 1, "squeeze_batch": 2}
    dataset = preflight(load_settings("digits_quick", changes))
    assert [info.folder for info in dataset.classes] == WNIDS


@pytest.mark.parametrize("ipc", [1, 10, 50, 100])
def test_imagenets_presets_hold_the_published_settings(ipc: int) -> None:
    settings = load_settings(f"imagenet1k_ipc{ipc}")
    assert settings.ipc == ipc
    assert settings.teachers == tuple(POOL["teachers"])
    assert ALEXNET in settings.holdout_networks
    assert settings.recipe_of("prism").iterations == 4000
    assert (settings.label.epochs, settings.student.batch) == (300, 50)
