"""The run directory: settings, unit states, records and locks."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.config import load_settings, short_hash
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.lock import LeaseLostError, Owner
from prism_nb.core.run import Run, has_results
from prism_nb.core.settings import STAGES, Settings
from prism_nb.core.unit_store import UnitState
from prism_nb.core.units import Unit

_RESULTS = {
    "squeeze": "teachers/units/test_resnet.json",
    "synthesis": "synthesis/prism/units/images000-001_classes000-009.json",
    "diversity": "diversity/prism.json",
    "relabel": "labels/prism/unit.json",
    "evaluation": "evaluation/prism/test_resnet-seed0/unit.json",
    "report": "figures/report.html",
}
_NO_MARKER = "teachers/units/net.json is no marker, or has been changed"
_UNIT = Unit("squeeze", "net", "teachers/units/net.json", "fingerprint")
_WEIGHTS = "teachers/net.bin"
_USER = Unit("diversity", "prism", "diversity/prism.json", "other binding", inputs=(_UNIT.marker,))


def quick(**changes: Any) -> Settings:
    """Return the quick preset's settings with some changes."""
    return load_settings("digits_quick", changes)


def pretend_results(run: Run, *stages: str) -> None:
    """Make it look as if stages had finished a unit."""
    for stage in stages:
        fileio.write_text(run.path / _RESULTS[stage], "{}")


def finish(run: Run, content: str = "weights") -> UnitState:
    """Finish the unit with one file, and return its state."""
    fileio.write_text(run.path / _WEIGHTS, content)
    run.units.finish(_UNIT, paths=[_WEIGHTS], record={"seconds": 1.5})
    return run.units.state(_UNIT)


def rewrite_marker(run: Run, **changes: Any) -> None:
    """Change entries of the finished unit's marker, and make its digest fit again."""
    marker = {**fileio.read_json(run.path / _UNIT.marker), **changes}
    del marker["digest"]
    fileio.write_json(run.path / _UNIT.marker, {**marker, "digest": short_hash(marker)})


# -- opening ---------------------------------------------------------------------------------


def test_created_run_opens_with_its_settings(run: Run, settings: Settings) -> None:
    assert Run.open(run.path).settings == settings


def test_creating_a_run_again_leaves_its_config_untouched(run: Run, settings: Settings) -> None:
    before = (run.path / "config.yaml").stat()
    Run.create(run.path, settings)
    after = (run.path / "config.yaml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_run_that_does_not_exist_is_refused_with_the_nearest(run: Run) -> None:
    Run.create(run.path.parent / "digits_demo", run.settings)
    with pytest.raises(UsageError, match="no run at .*did you mean 'digits_demo'"):
        Run.open(run.path.parent / "digit_demo")


def test_opening_a_missing_run_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none exist"):
        Run.open(tmp_path / "runs" / "r")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "- a\n", "ipc: [1\n", "ipcc: 1\n"])
def test_damaged_config_is_refused_by_name(run: Run, content: str) -> None:
    (run.path / "config.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        Run.open(run.path)
    assert str(run.path / "config.yaml") in str(caught.value)


def test_config_that_is_no_text_is_refused_by_name(run: Run) -> None:
    (run.path / "config.yaml").write_bytes(b"ipc: \xff\xfe\n")
    with pytest.raises(UsageError, match=r"config\.yaml"):
        Run.open(run.path)


@pytest.mark.parametrize("name", [".hidden", "-dash", "a b", "größe", "a:b", "a\nb", "x" * 101])
def test_name_that_is_no_safe_folder_is_refused(
    tmp_path: Path, settings: Settings, name: str
) -> None:
    with pytest.raises(UsageError, match="use letters, digits, dot, dash and underscore"):
        Run.create(tmp_path / name, settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["r", "0", "digits-2.b_C", "x" * 100])
def test_name_that_is_a_safe_folder_is_accepted(
    tmp_path: Path, settings: Settings, name: str
) -> None:
    assert Run.create(tmp_path / name, settings).name == name


# -- changed settings ------------------------------------------------------------------------


def test_settings_may_change_while_there_are_no_results(run: Run) -> None:
    run.with_settings(quick(ipc=5, seed=3))
    assert Run.open(run.path).settings == quick(ipc=5, seed=3)


def test_changed_settings_are_refused_by_name_and_value_once_results_exist(run: Run) -> None:
    pretend_results(run, *STAGES)
    with pytest.raises(UsageError) as caught:
        run.with_settings(quick(ipc=5, squeeze_lr=0.25))
    message = str(caught.value)
    assert "ipc is 2 in the run, 5 asked for" in message
    assert "squeeze_lr is 0.003 in the run, 0.25 asked for" in message
    assert "seed" not in message
    assert "Choose another run name" in message


def test_refused_settings_are_not_recorded(run: Run, settings: Settings) -> None:
    pretend_results(run, *STAGES)
    with pytest.raises(UsageError):
        run.with_settings(quick(ipc=5))
    assert Run.open(run.path).settings == settings


_DECIDED = {
    "seed": (1, set(STAGES)),
    "dataset": ("other", set(STAGES)),
    "squeeze_epochs": (9, set(STAGES)),
    "teachers": (["test_resnet", "test_coatnet"], set(STAGES) - {"squeeze"}),
    "primary": ("test_coatnet", set(STAGES) - {"squeeze"}),
    "ipc": (5, set(STAGES) - {"squeeze"}),
    "recipe": ({"lr": 0.5}, set(STAGES) - {"squeeze"}),
    "label_epochs": (20, {"relabel", "evaluation", "report"}),
    "label_teachers": (["test_coatnet"], {"relabel", "evaluation", "report"}),
    "student_lr": (0.5, {"evaluation", "report"}),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", _DECIDED)
def test_setting_is_bound_by_the_stages_that_it_decides(run: Run, name: str, stage: str) -> None:
    value, stages = _DECIDED[name]
    pretend_results(run, stage)
    changed = quick(**{name: value})
    if stage in stages:
        with pytest.raises(UsageError, match=f" {name} is "):
            run.with_settings(changed)
    else:
        assert run.with_settings(changed).settings == changed


def test_teachers_that_label_may_be_written_out(run: Run) -> None:
    pretend_results(run, "relabel")
    written = quick(label_teachers=list(run.settings.teachers))
    assert run.with_settings(written).settings == written


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["prism"]},
        {"students": ["test_resnet", "test_mambaout", "test_coatnet"]},
        {"student_seeds": 5},
        {"holdout_networks": ["test_mambaout", "test_vit"]},
        {"feature_networks": ["test_coatnet"]},
        {"device": "cpu"},
        {"progress": False},
    ],
)
def test_extending_and_machine_settings_may_always_change(
    run: Run, changes: dict[str, Any]
) -> None:
    pretend_results(run, *STAGES)
    run.with_settings(quick(**changes))
    assert Run.open(run.path).settings == quick(**changes)


def test_results_of_unknown_settings_are_refused(tmp_path: Path, settings: Settings) -> None:
    pretend_results(Run(tmp_path / "r", settings), "labels")
    with pytest.raises(UsageError, match=r"holds results but no config\.yaml"):
        Run.create(tmp_path / "r", settings)
    assert not (tmp_path / "r" / "config.yaml").exists()


def test_folder_without_results_becomes_a_run(tmp_path: Path, settings: Settings) -> None:
    fileio.write_text(tmp_path / "r" / "events" / "teachers.jsonl", "{}\n")
    assert Run.open(Run.create(tmp_path / "r", settings).path).settings == settings


@pytest.mark.parametrize("stage", STAGES)
def test_results_are_seen_in_their_own_stage_alone(run: Run, stage: str) -> None:
    pretend_results(run, stage)
    assert [name for name in STAGES if has_results(run.path, name)] == [stage]


# -- unit states -----------------------------------------------------------------------------


def test_unit_without_marker_is_missing(run: Run) -> None:
    fileio.write_text(run.path / _WEIGHTS, "weights")
    assert run.units.state(_UNIT).state == "missing"


def test_finished_unit_is_done(run: Run) -> None:
    assert finish(run) == UnitState(_UNIT, "done")


def test_finished_unit_tells_its_record_and_files(run: Run) -> None:
    finish(run)
    assert run.units.record(_UNIT) == {"seconds": 1.5}
    assert run.units.files(_UNIT) == [_WEIGHTS]


def test_unfinished_unit_has_no_record(run: Run) -> None:
    with pytest.raises(PrismError, match="teachers unit net is not done; run that stage first"):
        run.units.record(_UNIT)
    assert run.units.files(_UNIT) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '"done"'])
def test_marker_that_is_no_marker_is_damaged(run: Run, content: str) -> None:
    finish(run)
    (run.path / _UNIT.marker).write_text(content, encoding="utf-8")
    found = run.units.state(_UNIT)
    assert (found.state, found.reason) == ("damaged", _NO_MARKER)


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": 1},
        {"inputs": None},
        {"record": []},
        {"files": [_WEIGHTS]},
        {"files": {_WEIGHTS: None}},
        {"files": {_WEIGHTS: ""}},
    ],
)
def test_marker_of_the_wrong_shape_is_damaged(run: Run, changes: dict[str, Any]) -> None:
    finish(run)
    rewrite_marker(run, **changes)
    assert run.units.state(_UNIT).state == "damaged"
    assert run.units.marker(_UNIT) is None


def test_unit_whose_file_was_never_written_is_not_done(run: Run) -> None:
    run.units.finish(_UNIT, paths=[_WEIGHTS], record={})
    assert run.units.state(_UNIT).state == "damaged"


def test_unit_whose_file_has_changed_is_damaged(run: Run) -> None:
    finish(run)
    (run.path / _WEIGHTS).write_text("weighty")
    found = run.units.state(_UNIT)
    assert (found.state, found.reason) == (
        "damaged",
        "teachers/net.bin has changed since it was written",
    )


def test_shallow_look_does_not_hash(run: Run) -> None:
    finish(run)
    (run.path / _WEIGHTS).write_text("weighty")
    assert run.units.is_done(_UNIT, verify_hashes=False)


@pytest.mark.parametrize("deep", [True, False])
def test_unit_whose_file_is_gone_is_damaged(run: Run, deep: bool) -> None:
    finish(run)
    (run.path / _WEIGHTS).unlink()
    found = run.units.state(_UNIT, verify_hashes=deep)
    assert (found.state, found.reason) == ("damaged", "teachers/net.bin is gone")


def test_unit_that_lists_a_file_outside_the_run_is_damaged(run: Run) -> None:
    finish(run)
    outside = run.path.parent / "outside.bin"
    outside.write_text("weights")
    rewrite_marker(run, files={"../outside.bin": fileio.sha256(outside)})
    found = run.units.state(_UNIT)
    assert (found.state, found.reason) == ("damaged", "../outside.bin leaves the run")


def test_unit_whose_file_links_outside_the_run_is_damaged(run: Run) -> None:
    finish(run)
    outside = run.path.parent / "outside.bin"
    (run.path / _WEIGHTS).rename(outside)
    (run.path / _WEIGHTS).symlink_to(outside)
    found = run.units.state(_UNIT)
    assert (found.state, found.reason) == ("damaged", "teachers/net.bin leaves the run")


def test_unit_of_another_binding_is_of_other_settings(run: Run) -> None:
    finish(run)
    other = Unit(_UNIT.stage, _UNIT.name, _UNIT.marker, "changed")
    assert run.units.state(other).state == "other settings"
    assert run.units.marker(other) is None


def test_unit_whose_inputs_are_the_same_is_done(run: Run) -> None:
    finish(run)
    run.units.finish(_USER, paths=[], record={})
    finish(run)
    assert run.units.is_done(_USER)


def test_unit_whose_inputs_were_made_anew_is_stale(run: Run) -> None:
    finish(run)
    run.units.finish(_USER, paths=[], record={})
    finish(run, "other weights")
    found = run.units.state(_USER)
    assert (found.state, found.reason) == ("stale", "prism was made from files that have changed")


def test_unit_whose_input_is_gone_is_stale(run: Run) -> None:
    finish(run)
    run.units.finish(_USER, paths=[], record={})
    (run.path / _UNIT.marker).unlink()
    assert run.units.state(_USER).state == "stale"


def test_content_of_inputs_does_not_depend_on_what_they_recorded(run: Run) -> None:
    finish(run)
    before = run.units.inputs_hash((_UNIT.marker,))
    rewrite_marker(run, record={"seconds": 99})
    assert run.units.inputs_hash((_UNIT.marker,)) == before


# -- paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", ".."])
def test_path_that_leaves_the_run_is_refused(run: Run, relative: str) -> None:
    with pytest.raises(UsageError, match="leaves the run"):
        run.file(relative)


def test_path_through_a_link_out_of_the_run_is_refused(run: Run) -> None:
    (run.path / "link").symlink_to(run.path.parent)
    with pytest.raises(UsageError, match="leaves the run"):
        run.file("link/x")


def test_path_inside_the_run_is_returned(run: Run) -> None:
    assert run.file("a/b.png") == run.path / "a" / "b.png"


# -- records ---------------------------------------------------------------------------------


def class_of(index: int, name: str) -> dict[str, Any]:
    return {"index": index, "folder": str(index), "name": name}


_CLASSES = [class_of(0, "zero"), class_of(1, "one")]


@pytest.mark.parametrize("content", ["x", "{}", "[]", "[1, 2]", '[{"index": 0}]', "null"])
def test_damaged_classes_are_refused_with_the_remedy(run: Run, content: str) -> None:
    (run.path / "classes.json").write_text(content, encoding="utf-8")
    with pytest.raises(PrismError, match="classes.json is damaged; delete that file"):
        run.read_classes()
    with pytest.raises(PrismError, match="is damaged"):
        run.write_classes(_CLASSES)


def test_a_changed_record_is_damage(run: Run) -> None:
    finish(run)
    path = run.file(_UNIT.marker)
    marker = fileio.read_json(path)
    marker["record"] = {"last": 0.999}
    fileio.write_json(path, marker)
    assert run.units.state(_UNIT).state == "damaged"
    assert run.units.marker(_UNIT) is None


def test_recorded_classes_pass_again(run: Run) -> None:
    run.write_classes(_CLASSES)
    run.write_classes(_CLASSES)
    assert fileio.read_json(run.path / "classes.json") == _CLASSES


def test_other_class_order_is_refused_at_the_first_differing_class(run: Run) -> None:
    run.write_classes(_CLASSES)
    with pytest.raises(PrismError) as caught:
        run.write_classes([_CLASSES[0], class_of(1, "uno")])
    message = str(caught.value)
    assert "at index 1" in message
    assert "'one'" in message
    assert "'uno'" in message


@pytest.mark.parametrize("classes", [_CLASSES[:1], [*_CLASSES, class_of(2, "two")]])
def test_other_number_of_classes_is_refused(run: Run, classes: list[dict[str, Any]]) -> None:
    run.write_classes(_CLASSES)
    with pytest.raises(PrismError, match=f"at index {min(len(classes), 2)}"):
        run.write_classes(classes)
    assert fileio.read_json(run.path / "classes.json") == _CLASSES


def test_manifest_keeps_what_other_stages_recorded(run: Run) -> None:
    run.manifest.record_stage("squeeze", seconds=1)
    run.manifest.record_stage("relabel", seconds=2)
    run.manifest.record_stage("squeeze", units_made=3)
    assert run.manifest.read()["stages"] == {
        "squeeze": {"seconds": 1, "units_made": 3},
        "relabel": {"seconds": 2},
    }


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_manifest_counts_as_none(run: Run, content: str) -> None:
    (run.path / "manifest.json").write_text(content, encoding="utf-8")
    assert run.manifest.read() == {}


# -- events ----------------------------------------------------------------------------------


def test_events_come_back_in_order(run: Run) -> None:
    run.events.append("relabel", event="unit_start", unit="u")
    run.events.append("relabel", event="unit_end")
    assert [event["event"] for event in run.events.read("relabel")] == ["begin", "end"]


def test_events_of_a_stage_that_never_ran_are_none(run: Run) -> None:
    assert list(run.events.read("relabel")) == []


def test_stages_have_logs_of_their_own(run: Run) -> None:
    run.events.append("relabel", event="unit_start", unit="u")
    assert list(run.events.read("squeeze")) == []


def test_unfinished_last_event_is_left_out(run: Run) -> None:
    run.events.append("relabel", event="unit_start", unit="u")
    log = run.path / "events" / "labels.jsonl"
    log.write_text(log.read_text() + '{"event": "e', encoding="utf-8")
    assert [event["event"] for event in run.events.read("relabel")] == ["begin"]


def test_event_after_an_unfinished_one_is_kept(run: Run) -> None:
    run.events.append("relabel", event="unit_start", unit="u")
    log = run.path / "events" / "labels.jsonl"
    log.write_text(log.read_text() + '{"event": "e', encoding="utf-8")
    run.events.append("relabel", event="jobs_resumed")
    assert [event["event"] for event in run.events.read("relabel")] == ["begin", "resumed"]


def test_event_that_is_no_text_is_left_out(run: Run) -> None:
    run.events.append("relabel", event="unit_start", unit="u")
    log = run.path / "events" / "labels.jsonl"
    log.write_bytes(log.read_bytes() + b"\xff\xfe\n")
    assert [event["event"] for event in run.events.read("relabel")] == ["begin"]


def test_event_that_is_nested_without_end_is_left_out(run: Run) -> None:
    run.events.append("relabel", event="unit_start", unit="u")
    log = run.path / "events" / "labels.jsonl"
    log.write_bytes(log.read_bytes() + b'{"event": ' + b"[" * 100_000 + b"\n")
    assert [event["event"] for event in run.events.read("relabel")] == ["begin"]


def test_events_can_be_followed_from_where_the_last_look_ended(run: Run) -> None:
    run.events.append("relabel", event="unit_start", unit="u")
    first, position = run.events.read_after("relabel", 0)
    run.events.append("relabel", event="unit_end")
    then, end = run.events.read_after("relabel", position)
    assert [event["event"] for event in first] == ["begin"]
    assert [event["event"] for event in then] == ["end"]
    assert run.events.read_after("relabel", end) == ([], end)


def test_event_that_was_half_written_at_the_last_look_is_seen_at_the_next(run: Run) -> None:
    log = run.path / "events" / "labels.jsonl"
    fileio.write_text(log, '{"event": "st')
    nothing, position = run.events.read_after("relabel", 0)
    log.write_text(log.read_text() + 'art"}\n', encoding="utf-8")
    assert nothing == []
    assert run.events.read_after("relabel", position)[0] == [{"event": "start"}]


# -- locks -----------------------------------------------------------------------------------


def test_second_lock_of_a_stage_is_refused_with_the_holder(run: Run) -> None:
    with (
        run.locks.stage("relabel"),
        pytest.raises(PrismError) as caught,
        run.locks.stage("relabel"),
    ):
        pass
    message = str(caught.value)
    assert "stage relabel" in message
    assert f"process {os.getpid()} on {socket.gethostname()}" in message
    assert "wait for it or stop it" in message


def test_refused_lock_leaves_the_holder_in_possession(run: Run) -> None:
    with run.locks.stage("relabel"):
        for _ in range(2):
            with pytest.raises(PrismError), run.locks.stage("relabel"):
                pass


def test_another_stage_may_be_locked_meanwhile(run: Run) -> None:
    with run.locks.stage("relabel"), run.locks.stage("diversity"):
        assert json.loads((run.path / "locks" / "diversity.json").read_text())["process"]


def test_lock_is_free_again_after_a_failure(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.locks.stage("relabel"):
        raise ZeroDivisionError
    entered = False
    with run.locks.stage("relabel"):
        entered = True
    assert entered


def test_files_left_by_a_dead_process_do_not_hold_the_lock(run: Run) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = asdict(replace(Owner.here(), process=ended.pid, begun="1", token="dead"))
    fileio.write_json(run.path / "locks" / "labels.json", dead)
    with run.locks.stage("relabel"):
        owner = json.loads((run.path / "locks" / "labels.json").read_text())
    assert owner["process"] == os.getpid()
    (told,) = run.events.read("relabel")
    assert told["owner"] == f"process {ended.pid} on {socket.gethostname()}"


def test_run_that_cannot_be_written_is_named(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "r").write_text("in the way")
    with (
        pytest.raises(PrismError, match=f"cannot write to {tmp_path / 'r'}"),
        Run(tmp_path / "r", settings).locks.stage("relabel"),
    ):
        pass


def test_unit_that_was_taken_over_is_not_finished_by_its_first_owner(run: Run) -> None:
    unit = Unit("relabel", "u", "labels/u/unit.json", "b", {})
    with run.units.hold(unit):
        lease = run.path / "locks" / "labels" / "u.json"
        other = replace(Owner.here(), host="far", token="other")
        fileio.write_json(lease, asdict(other))
        with pytest.raises(LeaseLostError, match="u was taken over by process .* on far"):
            run.units.finish(unit, paths=[], record={})
    assert run.units.state(unit).state == "missing"
    assert Owner.read(lease) == other


def test_manifest_keeps_what_several_write_at_once(run: Run) -> None:
    def write(name: str) -> None:
        run.manifest.amend("notebooks", name, name)
        run.manifest.update(**{name: name})

    names = [f"n{i}" for i in range(16)]
    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = run.manifest.read()
    assert manifest["notebooks"] == {name: name for name in names}
    assert manifest.items() >= {name: name for name in names}.items()


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EACCES])
def test_disk_that_does_not_answer_is_no_damage(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    unit = Unit("relabel", "u", "labels/u/unit.json", "b", {})
    fileio.write_text(run.file("labels/u/x.txt"), "x")
    run.units.finish(unit, paths=["labels/u/x.txt"], record={})
    run.manifest.update(kept="this")
    opened = Path.open

    def away(name: str) -> None:
        def open_(path: Path, *args: Any, **named: Any) -> Any:
            if path.name == name:
                raise OSError(number, os.strerror(number))
            return opened(path, *args, **named)

        monkeypatch.setattr(Path, "open", open_)

    for name in ("unit.json", "x.txt"):
        away(name)
        with pytest.raises(PrismError, match=f"cannot read .*{name}: {os.strerror(number)}"):
            run.units.state(unit)
    away("manifest.json")
    with pytest.raises(PrismError, match="cannot read"):
        run.manifest.update(more="that")
    monkeypatch.undo()
    assert run.units.is_done(unit)
    assert run.manifest.read()["kept"] == "this"


# -- recipes of one's own ----------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["synthesis", "diversity", "labels", "evaluation"])
def test_a_methods_recipe_is_bound_by_its_own_results(run: Run, stage: str) -> None:
    pretend_results(run, stage)  # of prism
    with pytest.raises(UsageError, match=r"recipes\.prism is \{\} in the run, \{'lr': 0.5\} asked"):
        run.with_settings(quick(recipes={"prism": {"lr": 0.5}}))
    run.with_settings(quick(recipes={"sre2l": {"lr": 0.5}}))
    run.with_settings(quick(recipes={"sre2l": {"lr": 0.7}}))


def test_a_method_of_ones_own_may_join_a_run_with_results(run: Run) -> None:
    pretend_results(run, *STAGES)
    own = {"mine": {"base": "prism", "lr": 0.5}}
    run.with_settings(quick(methods=["prism", "mine"], recipes=own))


def test_words_of_a_recipe_are_free(run: Run) -> None:
    pretend_results(run, *STAGES)
    run.with_settings(quick(recipes={"prism": {"title": "Ours"}}))
