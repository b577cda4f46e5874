"""Networks that give logits alone, or BN statistics alone, and runs without real images."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.index import imagenet_wnids
from prism_nb.data.registry import dataset_sizes, open_dataset
from prism_nb.execution import cost, pipeline
from prism_nb.execution.exchange import export_set
from prism_nb.execution.open_run import open_run
from prism_nb.execution.preflight import only_part, preflight
from prism_nb.execution.study import StudyFolder, execute_study
from prism_nb.models.pool import load_teacher, wrap_teacher
from prism_nb.models.pretrained import open_pretrained
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.weights_file import (
    read_metadata,
    read_weights,
    to_safetensors,
    weights_metadata,
)
from prism_nb.models.zoo import build_network, head_tensors
from prism_nb.viz import results
from prism_nb.viz.report import write_report

SIZE = 64
CLASSES = ("n02007558", "n02391049", "n03642806")


def weights_file(folder: Path, name: str, *, head: bool = True) -> str:
    """Write random weights of ImageNet's thousand classes, and return the network's name."""
    torch.manual_seed(sum(map(ord, name)))
    network = build_network(name, classes=1000, image_size=SIZE)
    tensors = dict(network.state_dict())
    if not head:
        for key in head_tensors(name, image_size=SIZE):
            del tensors[key]
    dataset = open_dataset(load_settings("digits_quick", {"image_size": SIZE}))
    metadata = weights_metadata(imagenet_wnids() if head else (), dataset_preprocess(dataset))
    path = folder / f"{name}{'' if head else '_headless'}.safetensors"
    path.write_bytes(to_safetensors(tensors, metadata))
    return f"{name}@{path}"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A network with both, one without batch norm, one without a head, and a holdout network."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        "both": weights_file(folder, "test_resnet"),
        "no_bn": weights_file(folder, "test_convnext"),
        "no_head": weights_file(folder, "test_byobnet", head=False),
        "holdout": weights_file(folder, "test_mambaout"),
    }


def values(
    names: dict[str, str], *, methods: list[str] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return settings of a run without real images."""
    recipes = {"prism": {"selection": "all", "logits": "round_robin"}}
    recipes["prism_balanced"] = {"selection": "all"}
    return {
        "dataset": "imagenet1k",
        "data_dir": None,
        "class_list": list(CLASSES),
        "image_size": SIZE,
        "teachers": [names["both"], names["no_bn"], names["no_head"]],
        "primary": names["both"],
        "bn_only": [names["no_head"]],
        "logits_only": [names["no_bn"]],
        "holdout_networks": [names["holdout"]],
        "methods": methods or ["prism", "sre2l", "prism_balanced"],
        "recipe": {"init": "noise", "iterations": 5, "early_late_step": 0, "jitter": 4},
        "recipes": {} if methods else recipes,
        "ipc": 2,
        "batch_size": 6,
        "students": [],
        "label_epochs": 2,
        **changes,
    }


def settings_of(names: dict[str, str], **changes: Any) -> Settings:
    return load_settings("digits_quick", values(names, **changes))


def make(run: Run) -> Run:
    for stage in pipeline.STAGES:
        pipeline.execute(run, stage)
    return run


@pytest.fixture(scope="module")
def made(names: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    return make(open_run(run_name="a", preset="digits_quick", runs_dir=runs, changes=values(names)))


# -- the two parts -----------------------------------------------------------------------------


def test_each_network_plays_its_part(made: Run, names: dict[str, str]) -> None:
    (unit,) = unit_plan.method_units(made, "prism", len(CLASSES))
    record = made.units.record(unit)
    assert set(record["gradient_shares"]) == {
        f"bn/{names['both']}",
        f"bn/{names['no_head']}",
        f"logit/{names['both']}",
        f"logit/{names['no_bn']}",
    }
    assert sum(record["gradient_shares"].values()) == pytest.approx(1)
    labels = made.units.record(unit_plan.label_unit(made, "prism", len(CLASSES)))
    assert labels["teachers"] == [names["both"], names["no_bn"]]


def test_a_run_of_both_kinds_repeats_itself(
    made: Run, names: dict[str, str], tmp_path: Path
) -> None:
    again = open_run(run_name="a", preset="digits_quick", runs_dir=tmp_path, changes=values(names))
    for stage in ("squeeze", "synthesis"):
        pipeline.execute(again, stage)
    for first in sorted(made.path.rglob("images/**/*.png")):
        assert (again.path / first.relative_to(made.path)).read_bytes() == first.read_bytes()


def test_statistics_do_not_depend_on_the_head(
    made: Run, names: dict[str, str], tmp_path: Path
) -> None:
    dataset = open_dataset(settings_of(names))
    whole = open_pretrained(weights_file(tmp_path, "test_byobnet"), dataset)
    teacher = load_teacher(made, names["no_head"])
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    other = wrap_teacher("x", whole.network, dataset, whole.preprocess, cpu, whole.head_rows)
    mine, theirs = (t.stats_only(images, t.bn_layer_stats) for t in (teacher, other))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a.mean, b.mean)
        assert torch.equal(a.var, b.var)


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"bn_only": []}, "have no head, so the network gives neither logits nor labels"),
    ({"logits_only": []}, "has no BN layers with running statistics"),
    ({"primary": "NO_HEAD"}, "is the primary, which gives logits"),
    ({"label_teachers": ["NO_HEAD"]}, "label_teachers: .* is among bn_only"),
    ({"logits_only": ["NO_HEAD"], "bn_only": ["NO_HEAD"]}, "is among bn_only too"),
    ({"bn_only": ["BOTH"]}, "is the primary"),
    ({"bn_only": ["resnet18"]}, "bn_only: 'resnet18' is not in the pool"),
    ({"methods": ["gvbsm"]}, "method gvbsm: logits bn_teachers needs networks that give both"),
    (
        {"primary": "NO_BN", "methods": ["sre2l"]},
        "method sre2l: no BN teacher: the primary .* is among logits_only",
    ),
    (
        {"recipes": {"prism": {"selection": "fixed", "bn_fixed": ["NO_BN"]}}},
        "bn_fixed names .*, which is among logits_only",
    ),
]


@pytest.mark.parametrize(("changes", "message"), PROBLEMS)
def test_a_part_that_a_network_cannot_play_is_refused(
    names: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    def named(value: Any) -> Any:
        if isinstance(value, str):
            return names.get(value.lower(), value)
        if isinstance(value, list):
            return [named(each) for each in value]
        return {k: named(v) for k, v in value.items()} if isinstance(value, dict) else value

    with pytest.raises(UsageError, match=message):
        preflight(settings_of(names, **named(changes)))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vit_tiny_patch16_224", "logits_only"),
        ("convnext_atto", "logits_only"),
        ("mobilenetv2_100", None),
        ("HEADLESS", "bn_only"),
    ],
)
def test_a_networks_part_is_found_out(name: str, part: str | None, tmp_path: Path) -> None:
    dataset = open_dataset(load_settings("digits_quick", {"image_size": 96}))
    if name == "HEADLESS":
        name = weights_file(tmp_path, "mobilenetv2_100", head=False)
    assert only_part(name, dataset, resample=True) == part


# -- without real images -----------------------------------------------------------------------


def test_every_stage_works_without_real_images(made: Run) -> None:
    assert [info.folder for info in open_dataset(made.settings).classes] == list(CLASSES)
    summary = results.RUN_RESULTS["summary"](made)
    assert list(summary.table.index) == list(made.settings.methods)
    assert "No students" in summary.note
    assert results.RUN_RESULTS["accuracy"](made).note == summary.note
    (network,) = made.settings.feature_networks_used
    table = results.RUN_RESULTS["metrics"](made, network).table
    assert table.filter(regex="^intra-class cosine", axis=0).notna().all(axis=None)
    assert table.loc[["nearest training image", "density", "radius / real"]].isna().all(axis=None)
    shares = results.RUN_RESULTS["bn_shares"](made)
    assert shares.table.loc["gradient"].sum().to_list() == pytest.approx([100, 100, 100])
    page = (made.path / write_report(made)).read_text()
    assert "Pull of each network" in page
    assert "Real images" not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": ["test_resnet"]}, r"students are evaluated on them: set students to \[\]"),
        ({"recipe": {"init": "real"}}, "method prism starts from them: set init to noise"),
        ({"methods": ["random_real"]}, "method random_real takes them as its result"),
        ({"methods": ["prism_wide"]}, "method prism_wide measures convolutions on them"),
        ({"recipe": {"init": "noise", "bn_normalize": "real"}}, "scales losses by them"),
        ({"eval_split": "tuning"}, "eval_split tuning splits the real images"),
        ({"label_ensemble": "accuracy"}, "label_ensemble accuracy"),
        ({"holdout_networks": ["test_vit"]}, "test_vit would be trained on them: name weights"),
        ({"class_list": ["n02007558", "n00000000"]}, "not among ImageNet-1K's wnids"),
    ],
)
def test_what_needs_real_images_is_refused(
    names: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        preflight(settings_of(names, **changes))


def test_pixels_that_cannot_be_checked_are_refused(names: dict[str, str], tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    path = Path(names["holdout"].partition("@")[2])
    bare.write_bytes(to_safetensors(read_weights(path)))
    with pytest.raises(UsageError, match="mean and std of test_mambaout@.*bare.safetensors could"):
        preflight(settings_of(names, holdout_networks=[f"test_mambaout@{bare}"]))


def test_the_card_of_a_data_free_set_names_networks(made: Run, tmp_path: Path) -> None:
    export_set(made, "sre2l", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        card = archive.read("card.md").decode()
    assert "grown from noise" in card
    assert made.settings.primary in card
    assert "training images of" not in card


def test_a_file_of_a_run_keeps_the_size_of_its_training(
    names: dict[str, str], tmp_path: Path
) -> None:
    changes = values(names, image_size=48, resample=False, methods=["sre2l"])
    run = open_run(run_name="a", preset="digits_quick", runs_dir=tmp_path, changes=changes)
    pipeline.execute(run, "squeeze")
    unit = unit_plan.network_unit(run.settings, names["both"])
    assert run.units.record(unit)["preprocess"]["size"] == 48
    metadata = read_metadata(run.file(unit.params["weights"]))
    assert metadata is not None
    assert metadata.size == SIZE


def test_a_study_without_students_is_refused(tmp_path: Path) -> None:
    study = tmp_path / "s.yaml"
    values = {"title": "S", "question": "Q", "preset": "imagenet_wheels", "replicates": 1}
    study.write_text(write_yaml({**values, "scenarios": {"a": {"title": "A"}}}))
    with pytest.raises(UsageError, match="`students` may not be empty"):
        execute_study(StudyFolder.open(str(study), runs_dir=tmp_path), log=lambda _: None)


def test_a_plan_needs_no_real_images(made: Run) -> None:
    units = [unit for stage in pipeline.STAGES for unit in pipeline.stage_units(made, stage)]
    dataset = dataset_sizes(made.settings)
    estimates = cost.estimate_run(made, dataset, units)
    assert estimates.xs("synthesis", level="stage")["flop"].gt(0).all()
    assert pipeline.plan(made, "synthesis", measure=True).missing == 0
