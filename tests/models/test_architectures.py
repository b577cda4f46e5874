"""Names of architectures: of either library, as the shipped list and the libraries have them."""

import json
import sys
from importlib.metadata import version

import pytest
import timm
import torchvision

from prism_nb.core.units import is_pretrained_name
from prism_nb.models import architectures
from prism_nb.models.architectures import (
    architecture_of,
    list_architectures,
    resolve_architecture,
)
from tests.helpers.architectures_list import FILE

LISTED = json.loads(FILE.read_text())


@pytest.mark.parametrize(
    ("name", "architecture", "library"),
    [
        ("resnet18", "resnet18", "torchvision"),
        ("timm/resnet18", "timm/resnet18", "timm"),
        ("test_resnet", "test_resnet", "timm"),
        ("convnet3", "convnet3", "kit"),
        ("resnet18@IMAGENET1K_V1", "resnet18", "torchvision"),
        ("resnet18.a1_in1k", "timm/resnet18", "timm"),
        ("timm/resnet18.a1_in1k", "timm/resnet18", "timm"),
        ("timm/resnet18@some.dir/w.pth", "timm/resnet18", "timm"),
    ],
)
def test_names_give_architecture_and_library(name: str, architecture: str, library: str) -> None:
    assert architecture_of(name) == architecture
    assert resolve_architecture(architecture)[0] == library


def test_no_architecture_looks_as_if_it_had_weights() -> None:
    assert not any(
        map(is_pretrained_name, [*timm.list_models(), *torchvision.models.list_models()])
    )


@pytest.mark.parametrize("library", list(LISTED))
def test_the_shipped_list_is_that_of_its_version(library: str) -> None:
    if version(library).partition("+")[0] != LISTED[library]["version"]:
        pytest.skip("another version is installed: run python -m tests.helpers.architectures_list")
    assert LISTED[library]["names"] == sorted(list_architectures(library))


def test_architectures_that_a_user_registers_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "list_models", lambda: ["my_network"])
    assert resolve_architecture("my_network") == ("timm", "my_network")


def test_libraries_of_another_version_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    older = {library: {"version": "0.1", "names": []} for library in LISTED}
    monkeypatch.setattr(architectures, "_listed", lambda: older)
    monkeypatch.setattr(sys, "modules", dict.fromkeys(sys.modules.keys() - {*LISTED}))
    monkeypatch.setattr(architectures, "list_architectures", lambda library: [f"{library}_net"])
    assert resolve_architecture("timm_net") == ("timm", "timm_net")
