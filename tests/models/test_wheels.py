"""Weights in wheels: downloaded by pip from an index, checked, and read without running code."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.unit_plan import method_units, network_unit
from prism_nb.core.yaml_io import YamlFolder, write_yaml
from prism_nb.data.index import imagenet_wnids
from prism_nb.data.registry import open_dataset
from prism_nb.models import weights, weights_file, wheels
from prism_nb.models.bn_distance import IMAGES, bn_distance, spaced_images
from prism_nb.models.pool import load_teacher, wrap_teacher
from prism_nb.models.pretrained import native_preprocess
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.zoo import build_network
from prism_nb.synthesis.objective import build_stat_matcher
from prism_nb.synthesis.stage import run_unit as run_synthesis
from tests.helpers.dangerous import Dangerous
from tests.helpers.real_scale import HEADLESS, real_scales
from tests.helpers.wheel_files import V1, V1_BUILD, squeezed, write_mobilenet_v1, write_photographs

NETWORK = "squeezenet1_1"
LITE = "tf_efficientnet_lite0"
WITH_HEAD = [name for name in wheels.WHEELS.names() if wheels.read_wheel(name).head]
MEMBER = "tiny_weights/net.pth"


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts a wheel with some content on pip's only index."""
    index, catalogue = tmp_path / "index", tmp_path / "wheels"
    for folder in (index, catalogue):
        folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "WHEELS", YamlFolder(catalogue, "wheel"))

    def put(content: Any, **changes: Any) -> None:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        path = index / "tiny_weights-1.0-py3-none-any.whl"
        info = "tiny_weights-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(MEMBER, buffer.getvalue())
            archive.writestr(
                f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        entry = {
            "package": "tiny-weights==1.0",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "megabytes": 5.0,
            "member": MEMBER,
            "licence": "MIT",
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "size": 64,
            "interpolation": "bilinear",
        }
        (catalogue / f"{NETWORK}.yaml").write_text(write_yaml({**entry, **changes}))

    return put


def renamed_state() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a network's weights, and the same under names of somebody else's program."""
    torch.manual_seed(0)
    own = build_network(NETWORK, classes=1000, image_size=224).state_dict()
    return own, {f"layer_{index}": value for index, value in enumerate(own.values())}


def test_weights_get_the_names_of_the_network(publish: Any) -> None:
    own, theirs = renamed_state()
    publish(theirs)
    spec = weights.resolve_weights(f"{NETWORK}@wheel")
    assert not spec.file.exists()
    weights.download_weights(spec)
    found = load_file(spec.file)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], value) for name, value in own.items())
    metadata = weights_file.read_metadata(spec.file)
    assert metadata is not None
    assert metadata.preprocess == PreprocessConfig((0.5,) * 3, (0.25,) * 3, 64, "bilinear")
    assert metadata.classes == imagenet_wnids()


def test_build_arguments_of_a_wheel_end_in_its_file(publish: Any) -> None:
    publish(renamed_state()[1], build={"dropout": 0.25})
    spec = weights.resolve_weights(f"{NETWORK}@wheel")
    weights.download_weights(spec)
    metadata = weights_file.read_metadata(spec.file)
    assert metadata is not None
    assert metadata.build == dict(spec.build) == {"dropout": 0.25}
    publish(renamed_state()[1], build={"no_such": 1})
    with pytest.raises(UsageError, match=f"wheel of {NETWORK}: torchvision .*'no_such'"):
        weights.resolve_weights(f"{NETWORK}@wheel")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"tiny_weights.* is not the wheel .* instead of 00000000"),
        ({"member": "elsewhere.pth"}, "tiny_weights.* has no file elsewhere.pth"),
        ({"package": "absent==2"}, "absent==2 cannot be downloaded: .*No matching distribution"),
    ],
)
def test_other_wheels_are_refused(publish: Any, changes: dict[str, str], message: str) -> None:
    publish(renamed_state()[1], **changes)
    spec = weights.resolve_weights(f"{NETWORK}@wheel")
    with pytest.raises(UsageError, match=message):
        weights.download_weights(spec)
    assert not spec.file.exists()


def test_code_in_a_wheel_does_not_run(publish: Any, tmp_path: Path) -> None:
    publish({"weight": Dangerous(tmp_path / "ran")})
    with pytest.raises(UsageError, match="holds more than tensors"):
        wheels.download_wheel(NETWORK, tmp_path / "w.safetensors")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused(publish: Any, tmp_path: Path) -> None:
    publish({"weight": torch.zeros(3, 3)})
    with pytest.raises(UsageError, match=f"not of '{NETWORK}'"):
        wheels.download_wheel(NETWORK, tmp_path / "w.safetensors")


def test_every_wheel_of_the_kit_is_described() -> None:
    for name in wheels.WHEELS.names():
        wheel = wheels.read_wheel(name)
        assert wheel.package.count("==") == 1
        assert weights.resolve_weights(f"{name}@wheel").head == (1000 if wheel.head else None)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photographs of ImageNet's classes, by wnid, as training and held-out images."""
    return written(tmp_path_factory.mktemp("photographs"), write_photographs)


@pytest.fixture(scope="module")
def mobilenet_v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MobileNetV1's weights."""
    return written(tmp_path_factory.mktemp("v1"), write_mobilenet_v1)


def written(folder: Path, write: Callable[[Path], None]) -> Path:
    try:
        write(folder)
    except subprocess.CalledProcessError:
        pytest.skip("no package index can be reached")
    return folder


def described(file: Path, copy: Path, **changes: Any) -> Path:
    """Copy a file of weights beside metadata that differs from its own."""
    copy.write_bytes(file.read_bytes())
    own = weights_file.read_metadata(file)
    assert own is not None
    copy.with_suffix(".yaml").write_text(write_yaml({**own.plain(), **changes}))
    return copy


@pytest.mark.weights
def test_weights_of_the_wheels_know_photographs(photographs: Path, tmp_path: Path) -> None:
    names = [f"{network}@wheel" for network in WITH_HEAD]
    run = squeezed(photographs, tmp_path / "run", names)
    for name in names:
        record = run.units.record(network_unit(run.settings, name))
        assert (record["head_classes"], record["licence"]) == (1000, "Apache-2.0")
        assert record["accuracy"] >= 18 / 20
        assert record["order_checked"]


@pytest.mark.weights
def test_mean_and_std_of_other_networks_are_found_out(photographs: Path, tmp_path: Path) -> None:
    networks = wheels.WHEELS.names()
    headless = [f"{name}@wheel" for name in networks if name not in WITH_HEAD]
    names = [*(f"{name}@wheel" for name in WITH_HEAD), *headless]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "network .* BN statistics")
        run = squeezed(photographs, tmp_path / "right", names, bn_only=headless)
    right = [run.units.record(network_unit(run.settings, name))["bn_distance"] for name in names]
    assert 0.01 < min(right) < max(right) < 0.03
    assert max(right[:3]) < 1.3 * min(right[:3])  # three sizes of one network
    dataset = open_dataset(run.settings)
    images, none = spaced_images(dataset, IMAGES), ((0.0,) * 3, (1.0,) * 3)
    known = {(wheel.mean, wheel.std) for wheel in map(wheels.read_wheel, networks)} | {none}
    for name in names:
        preprocess = native_preprocess(name, dataset)
        network = load_teacher(run, name).network
        for mean, std in known - {(preprocess.mean, preprocess.std)}:
            other = replace(preprocess, mean=mean, std=std)
            teacher = wrap_teacher(name, network, dataset, other, torch.device("cpu"))
            distance = bn_distance(teacher, images)
            assert distance is not None
            assert 0.06 < distance < 0.25
    own = weights.resolve_weights(names[0]).file
    imagenet = wheels.read_wheel("mobilenetv2_100")
    pixels = {"mean": [*imagenet.mean], "std": [*imagenet.std]}
    file = described(own, tmp_path / "wrong.safetensors", **pixels)
    wrong = f"{LITE}@{file}"
    with pytest.warns(UserWarning, match=rf"{re.escape(wrong)}.* mean \[0\.485, 0\.456, 0\.406\]"):
        run = squeezed(photographs, tmp_path / "wrong", [wrong, *names[1:]], bn_only=headless)
    record = run.units.record(network_unit(run.settings, wrong))
    assert record["accuracy"] >= 18 / 20  # which shows nothing
    assert record["bn_distance"] > 4 * right[0]


@pytest.mark.weights
def test_real_statistics_are_nearer_than_those_of_noise(photographs: Path, tmp_path: Path) -> None:
    names = [f"{network}@wheel" for network in wheels.WHEELS.names()]
    headless = [name for name in names if name.partition("@")[0] not in WITH_HEAD]
    names.sort(key=headless.__contains__)  # the first is the primary
    run = squeezed(photographs, tmp_path / "run", names, bn_only=headless)
    dataset = open_dataset(run.settings)
    real = dataset.normalize(dataset.images("val", range(20)))
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    for name in names:
        matcher = build_stat_matcher(load_teacher(run, name), run.settings.recipe_of("prism"))
        stats = tuple(matcher.real_stats)
        near, far = (
            float(matcher.distance(dict(zip(stats, found, strict=True))))
            for found in (matcher.runner.stats_only(x, stats) for x in (real, noise))
        )
        assert near < far / 2
    record = run.units.record(network_unit(run.settings, headless[0]))
    assert (record["accuracy"], record["order_checked"], record["head_classes"]) == (None, None, 0)


@pytest.mark.weights
def test_build_arguments_show_in_the_statistics(
    photographs: Path, mobilenet_v1: Path, tmp_path: Path
) -> None:
    def distance(*arguments: str) -> float:
        build = {key: V1_BUILD[key] for key in arguments}
        folder = tmp_path / "-".join(arguments)
        folder.mkdir(exist_ok=True)
        file = described(mobilenet_v1 / f"{V1}.safetensors", folder / "v1.safetensors", build=build)
        name = f"{V1}@{file}"
        run = squeezed(photographs, folder / "run", [name])
        record = run.units.record(network_unit(run.settings, name))
        assert record["build"] == build
        assert record["accuracy"] >= 18 / 20  # with any
        return record["bn_distance"]

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "network .* BN statistics")
        right, *halves = distance(*V1_BUILD), distance("pad_type"), distance("bn_eps")
    with pytest.warns(UserWarning, match=r"BN statistics .* build arguments \{\} may be wrong"):
        wrong = distance()
    assert 0.005 < right < 0.02
    assert 2 * right < min(halves) < max(halves) < wrong


@pytest.mark.weights
def test_relative_distances_divide_the_pull(
    photographs: Path, mobilenet_v1: Path, tmp_path: Path
) -> None:
    names = [f"{LITE}@wheel", f"{V1}@{mobilenet_v1 / V1}.safetensors", HEADLESS]
    recipe = {"init": "noise", "iterations": 1, "early_late_step": 0}
    methods = {"prism_all": {}, "prism_balanced": {"selection": "all"}}
    changes: dict[str, Any] = {"methods": [*methods], "recipes": methods, "recipe": recipe}
    changes |= {"bn_only": [HEADLESS], "image_size": 128, "resample": False, "batch_size": 4}
    run = squeezed(photographs, tmp_path / "run", names, **changes)
    pulls = {}
    for method in methods:
        unit, *_ = method_units(run, method, len(open_dataset(run.settings).classes))
        run_synthesis(run, unit, lambda _: None)()
        shares = run.units.record(unit)["gradient_shares"]
        bn = [shares[f"bn/{name}"] for name in names]
        pulls[method] = [share / sum(bn) for share in bn]
    summed, balanced = pulls.values()
    assert summed[0] > 0.5 > 0.05 > summed[2]  # as published, the primary's
    assert max(balanced) < max(summed)
    assert min(balanced) > 5 * min(summed)


@pytest.mark.weights
def test_the_balance_studys_factor_is_that_of_photographs(
    photographs: Path, tmp_path: Path
) -> None:
    scale, *batches = real_scales(photographs, tmp_path / "run")
    recipe = load_settings("imagenet_balance").recipe_of("real_01")
    assert recipe.bn_weights[HEADLESS] == pytest.approx(scale, rel=0.02)
    assert batches == pytest.approx([scale] * len(batches), rel=0.15)
