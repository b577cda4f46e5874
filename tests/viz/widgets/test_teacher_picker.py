"""The teacher picker without a browser: what a click does to its value, and what a pick means."""

import asyncio
import html
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prism_nb.core.config import build_settings, load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import TeacherPool, load_recipe
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import network_unit
from prism_nb.execution.pipeline import stage_units
from prism_nb.models.catalog import family_of, read_catalogue
from prism_nb.models.similarity import Comparison
from prism_nb.models.zoo import build_network, network_info
from prism_nb.viz import monitor
from prism_nb.viz.widgets import teacher_picker
from prism_nb.viz.widgets.pool_preview import comparison_html, pool_warnings, sample_steps
from prism_nb.viz.widgets.teacher_picker import TeacherPicker, candidates


@pytest.fixture
def picker(run: Run) -> TeacherPicker:
    return TeacherPicker(run)


def listed(picker: TeacherPicker) -> list[str]:
    return [name for _, name in picker.candidates.list.options]


def take_out(picker: TeacherPicker, *names: str) -> None:
    for name in names:
        picker.pool.rows[name].children[1].click()


def add(picker: TeacherPicker, name: str) -> None:
    picker.name.value = name
    picker.add.click()


# -- the pool --------------------------------------------------------------------------------


def test_a_primary_that_leaves_the_pool_is_not_replaced(
    picker: TeacherPicker, settings: Settings
) -> None:
    take_out(picker, "test_resnet")
    assert "no primary: choose one of the pool" in picker.status.value
    with pytest.raises(UsageError, match="choose one"):
        _ = picker.value
    picker.pool.primary.value = "test_byobnet"
    assert picker.value.primary == "test_byobnet"
    assert picker.value.teachers == settings.teachers[1:]
    assert "primary test_resnet → test_byobnet" in picker.status.value
    assert "primary: test_byobnet" in picker.status.value
    take_out(picker, *picker.pool.names)
    assert "Not usable: no primary" in picker.status.value
    assert picker.preview.value == ""


def test_a_pick_that_would_mix_results_is_not_ready(run: Run) -> None:
    for unit in stage_units(run, "squeeze"):
        run.units.finish(unit, paths=[], record={})
    run.units.finish(stage_units(run, "synthesis")[0], paths=[], record={})
    picker = TeacherPicker(run)
    assert "Ready" in picker.status.value
    picker.pool.primary.value = "test_byobnet"
    with pytest.raises(UsageError) as refused:
        run.with_settings(picker.value)
    assert html.escape(f"Not usable in this run: {refused.value}") in picker.status.value
    assert "Ready" not in picker.status.value
    assert picker.save_button.disabled
    assert "Cannot start: " in picker.training.message.value
    picker.save()
    assert "Not saved: " in picker.answer.value
    assert "BN statistics in" in picker.preview.value


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("<b>", "unknown network"),
        ("inception_v3", "cannot take 32-pixel images"),
        ("resnet18@IMAGENET1K_V1", "weights are missing"),
    ],
)
def test_a_network_that_cannot_be_used_is_not_added(
    picker: TeacherPicker, settings: Settings, name: str, reason: str
) -> None:
    add(picker, name)
    assert "Not added: " in picker.message.value
    assert reason in picker.message.value
    assert "<b>" not in picker.message.value
    assert picker.value == settings


def test_a_network_without_batch_norm_gives_logits_alone(picker: TeacherPicker) -> None:
    add(picker, "test_convnext")
    assert "Added: test_convnext" in picker.message.value
    assert picker.value.logits_only == ("test_convnext",)
    assert "logits_only:" in picker.status.value
    assert "Beware: test_convnext" not in picker.warnings.value
    take_out(picker, "test_convnext")
    assert picker.value.logits_only == ()


# -- save, train and suggest -----------------------------------------------------------------


def pretend_trained(run: Run, *names: str) -> None:
    for name in names:
        unit = network_unit(run.settings, name)
        record = {"bn_layers": 9, "bn_channels": 9, "parameters": 9, "flops": 9, "accuracy": 0.5}
        run.units.finish(unit, paths=[], record=record)


def texts(picker: TeacherPicker, name: str) -> list[str]:
    return re.findall("<span>(.*?)</span>", picker.pool.rows[name].children[0].value)


def test_save_says_what_changes_and_what_is_to_be_made(run: Run) -> None:
    pretend_trained(run, *run.settings.networks)
    picker = TeacherPicker(run)
    add(picker, "mobilenetv3_small_050")
    picker.pool.primary.value = "test_byobnet"
    picker.draws["prism"].fields["selection"].value = "intra"
    assert "Not saved yet: " in picker.status.value
    picker.save_button.click()
    for text in (
        "Saved: teachers + mobilenetv3_small_050; primary test_resnet → test_byobnet; "
        "prism: selection pre → intra.",
        f"Networks: {len(run.settings.networks)} kept, 1 to train (mobilenetv3_small_050).",
        "synthesis 0 kept, 3 to make; diversity 0 kept, 4 to make;",
    ):
        assert text in picker.answer.value
    assert Run.open(run.path).settings == picker.value
    picker.draws["prism"].fields["selection"].value = "pre"  # back, after it was saved otherwise
    picker.save_button.click()
    assert "Saved: prism: selection intra → pre." in picker.answer.value
    assert Run.open(run.path).settings.recipes == {}


def test_train_saves_and_starts_a_process(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_trained(run, *run.settings.networks)
    started = []

    def start(run: Run, stage: str) -> "subprocess.Popen[bytes]":
        started.append((stage, Run.open(run.path).settings.teachers[-1]))
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(monitor, "start_stage", start)
    picker = TeacherPicker(run)
    assert picker.training.start.disabled  # nothing to train
    assert "Finished: all 5 units are done" in picker.training.message.value
    add(picker, "mobilenetv3_small_050")
    assert "1 missing" in picker.training.numbers.value
    assert texts(picker, "mobilenetv3_small_050")[-2:] == ["–", "to train"]
    picker.training.start.click()
    assert started == [("squeeze", "mobilenetv3_small_050")]
    assert picker.is_open  # until it is trained
    pretend_trained(Run.open(run.path), "mobilenetv3_small_050")
    run.events.append("squeeze", event="unit_end", unit="mobilenetv3_small_050", seconds=1.0)
    while picker.is_open:
        picker.training.refresh()
    assert texts(picker, "mobilenetv3_small_050")[-2:] == ["50.0", "here"]


def test_only_a_person_who_is_shown_the_picker_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    picker = TeacherPicker(run)
    assert picker.is_open  # teachers are missing
    assert asyncio.run(picker.saved()).settings == run.settings
    monkeypatch.setattr(teacher_picker, "is_attended", lambda: True)
    picker._ipython_display_()
    picker.pool.primary.value = "test_byobnet"

    async def save_late() -> Run:
        waiting = asyncio.create_task(picker.saved())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert Run.open(run.path).settings.primary == "test_resnet"
        picker.save_button.click()
        return await waiting

    assert asyncio.run(save_late()).settings.primary == "test_byobnet"
    picker.training.close()


def test_a_suggested_pool_has_the_primary_and_other_families(picker: TeacherPicker) -> None:
    picker.size.value = 4
    picker.suggest.click()
    names = picker.value.teachers
    assert "Suggested: test_resnet, " in picker.message.value
    assert names[0] == picker.value.primary == "test_resnet"
    assert len({family_of(name) for name in names}) == len(names) == 4
    flops = {entry.name: entry.flops for entry in read_catalogue()}
    assert max(flops[name] for name in names) == flops["test_resnet"]
    assert not set(names) & set(picker.value.holdout_networks)


def test_a_suggested_pool_for_imagenet_has_published_weights(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "wheels", load_settings("imagenet_wheels"))
    picker = TeacherPicker(run)
    picker.candidates.text.value = "resnet18"
    picker.candidates.origin.value = "torchvision"
    picker.candidates.gflop.value = 5.0
    picker.suggest.click()
    assert picker.value.teachers == ("tf_efficientnet_lite0@wheel", "resnet18@IMAGENET1K_V1")
    assert texts(picker, "resnet18@IMAGENET1K_V1")[-1] == "to fetch"


# -- candidates ------------------------------------------------------------------------------


def test_candidates_are_filtered_and_added(picker: TeacherPicker) -> None:
    picker.candidates.join.click()
    assert "Not added: choose a candidate" in picker.message.value
    picker.candidates.text.value = "MobileNetV3 050"  # only one, which Enter adds
    assert listed(picker) == ["mobilenetv3_small_050"]
    picker.candidates.join.click()
    assert picker.value.teachers[-1] == "mobilenetv3_small_050"
    assert "Added" in picker.message.value
    picker.candidates.text.value = "no such network"
    assert listed(picker) == []
    assert "No network fits" in picker.candidates.count.value


def test_family_origin_cost_and_order(picker: TeacherPicker) -> None:
    picker.candidates.family.value = "resnet"
    picker.candidates.origin.value = "torchvision"
    picker.candidates.gflop.value = 10.0
    picker.candidates.sort.value = "fewest GFLOP"
    assert listed(picker)[0] == "resnet18"
    assert "resnet152" not in listed(picker)
    assert picker.candidates.list.options[0][0].split()[-1] == "69.8"


def test_published_weights_are_offered(picker: TeacherPicker) -> None:
    picker.candidates.list.value = ("resnet18",)
    assert [tag for _, tag in picker.candidates.weights.options] == ["", "IMAGENET1K_V1"]
    picker.candidates.weights.value = "IMAGENET1K_V1"
    picker.candidates.join.click()
    assert "resnet18@IMAGENET1K_V1" in picker.message.value


def test_trained_networks_come_first(run: Run) -> None:
    for name in ("test_resnet", "test_mambaout"):  # the second without batch norm
        network = build_network(name, classes=10, image_size=32)
        info = network_info(name, network, image_size=32)
        record = {**vars(info), "accuracy": 0.5}
        run.units.finish(network_unit(run.settings, name), paths=[], record=record)
    first, second = candidates(run)[:2]
    assert (first.name, first.library, first.family) == ("test_resnet", "this run", "resnet")
    assert (first.accuracy, first.input_size) == (50, 32)
    assert second.library == "torchvision"


# -- the draw --------------------------------------------------------------------------------


def test_the_draw_goes_to_the_method_and_back(picker: TeacherPicker, settings: Settings) -> None:
    fields = picker.draws["prism"].fields
    assert list(picker.draws) == ["prism"]
    assert picker.value == settings
    assert "Ready" in picker.status.value
    fields["selection"].value = "intra"
    fields["resample_every"].value = 5
    fields["bn_slot_prob"].value = 0.25
    changes = {"selection": "intra", "resample_every": 5, "bn_slot_prob": 0.25}
    assert picker.value.recipes == {"prism": changes}
    assert picker.value.recipe_of("sre2l") == settings.recipe_of("sre2l")
    assert "resample_every: 5" in picker.status.value
    fields["selection"].value = "pre"
    fields["resample_every"].value = settings.recipe_of("prism").resample_every
    fields["bn_slot_prob"].value = 0.5
    assert picker.value == settings
    fields["bn_subset_size"].value = 2
    assert fields["num_bn_slots"].layout.display == "none"
    assert picker.value.recipe_of("prism").bn_subset_size == 2
    fields["bn_subset_size"].value = 0
    assert picker.value == settings
    take_out(picker, "test_byobnet")
    assert fields["bn_subset_size"].index == 0  # still chosen, not blank


def test_fixed_teachers_leave_with_the_pool(picker: TeacherPicker) -> None:
    fields = picker.draws["prism"].fields
    fields["selection"].value = "fixed"
    assert fields["bn_fixed"].layout.display == ""
    assert fields["num_bn_slots"].layout.display == "none"
    fields["bn_fixed"].value = ("test_byobnet", "test_coatnet")
    assert picker.value.recipe_of("prism").bn_fixed == ("test_byobnet", "test_coatnet")
    take_out(picker, "test_byobnet")
    assert picker.value.recipe_of("prism").bn_fixed == ("test_coatnet",)


def test_without_a_method_that_draws(tmp_path: Path, settings: Settings) -> None:
    own = settings.model_copy(update={"methods": ("sre2l",)})
    picker = TeacherPicker(Run.create(tmp_path / "other", own))
    assert picker.draws == {}
    assert picker.value == own
    assert "methods of this run (sre2l)" in picker.preview.value


# -- what a pick means -----------------------------------------------------------------------

POOL = ("a", "b", "c", "d", "e")


def test_sampled_steps_have_the_published_draw() -> None:
    steps = sample_steps(load_recipe("prism"), TeacherPool("a", POOL))
    shares = {name: np.mean([name in bn for bn, _ in steps]) for name in POOL}
    assert shares["a"] == 1
    # Three slots, each filled with probability 1/2: 1.5 of the 4 others on average.
    assert all(abs(shares[name] - 1.5 / 4) < 0.05 for name in "bcde")
    assert {logits for _, logits in steps} == {("a",)}


def test_networks_in_turn_come_equally_often() -> None:
    changes = {"selection": "round_robin", "logits": "round_robin", "iterations": 60}
    steps = sample_steps(load_recipe("prism", changes), TeacherPool("a", POOL))
    assert {np.mean([name in logits for _, logits in steps]) for name in POOL} == {0.2}
    assert {np.mean([name in bn for bn, _ in steps]) for name in POOL} == {0.25, 1.0}


def test_the_preview_describes_a_step(picker: TeacherPicker, settings: Settings) -> None:
    assert "draws about 2.5 BN teachers" in picker.preview.value
    picker.draws["prism"].fields["selection"].value = "all"
    assert "draws about 4.0 BN teachers (4 in 100%" in picker.preview.value
    flops = [
        network_info(n, build_network(n, classes=10, image_size=32), image_size=32).flops
        for n in settings.teachers
    ]
    assert f"costs about {sum(flops) / flops[0]:.1f} times a step" in picker.preview.value


def test_a_network_without_bn_costs_only_as_a_logit_teacher(run: Run) -> None:
    changes = {"teachers": ["test_resnet", "alexnet"], "image_size": 64}
    recipes = {"prism": {"no_bn_policy": "zero", "selection": "all"}}
    own = build_settings({**run.settings.plain(), **changes, "recipes": recipes}, where="a test")
    preview = TeacherPicker(Run(run.path, own)).preview.value
    assert "costs about 1.0 times a step" in preview
    assert "2 in 100%" in preview


def warnings(settings: Settings, **changes: object) -> list[str]:
    own = build_settings({**settings.plain(), **changes}, where="a test")
    return pool_warnings(own, {name: 0 if name == "alexnet" else 1 for name in own.teachers})


def test_warnings(settings: Settings) -> None:
    assert warnings(settings) == []
    (bare,) = warnings(settings, teachers=["test_resnet", "alexnet"])
    assert bare.startswith("alexnet has no BN layers")
    (some,) = warnings(settings, teachers=["test_resnet", "resnet18", "vgg11_bn"])
    assert "of the primary's family (resnet)" in some
    assert some.endswith(": resnet18.")
    (alone,) = warnings(settings, teachers=["test_resnet"])
    assert alone.startswith("The primary is alone")
    (inside,) = warnings(settings, feature_networks=["test_byobnet", "test_mambaout"])
    assert inside.startswith("test_byobnet measures diversity and test_byobnet of")
    (same,) = warnings(settings, holdout_networks=["test_byobnet@weights/mine.pth"])
    assert "and test_byobnet of the pool has its architecture" in same


def test_a_comparison_names_what_is_missing(picker: TeacherPicker) -> None:
    values = np.array([[1.0, 0.25], [0.25, np.nan]])
    shown = comparison_html(Comparison(("a<b", "c"), {"d": "not trained"}, 200, values, values))
    assert "200 real held-out images" in shown
    assert shown.count(">0.25<") == 4
    assert "a&lt;b" in shown
    assert "Not compared: d: not trained" in shown
    one = np.ones((1, 1))
    assert "needs two networks" in comparison_html(Comparison(("a",), {}, 200, one, one))
    picker.compare.click()
    assert "Train them, then compare again" in picker.similarity.value
