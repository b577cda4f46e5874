"""The notebooks' functions show results by name, and save figures where they can."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prism_nb import notebook as nb
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.lock import LeaseLostError
from prism_nb.core.run import Run
from prism_nb.headless import cell_error
from prism_nb.viz.html import EncodedImage
from tests.helpers.evaluated_run import evaluated_run
from tests.helpers.image_trees import make_tree


@pytest.fixture
def evaluated(tmp_path: Path) -> Run:
    return evaluated_run(tmp_path)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is displayed now: HTML as text, anything else as it is."""
    shown: list[Any] = []

    def put(place: int, one: Any, **_: Any) -> None:
        plain = one.get("text/html", one) if isinstance(one, dict) else one.data
        shown[place : place + 1] = [plain]

    def display(one: Any, **_: Any) -> SimpleNamespace:
        put(len(shown), one)
        return SimpleNamespace(update=partial(put, len(shown) - 1))

    monkeypatch.setattr(nb, "display", display)
    return shown


def test_libraries_that_take_seconds_wait_until_they_are_needed() -> None:
    slow = {"timm", "torchvision", "torch._dynamo", "sklearn", "scipy"}
    code = f"import sys, prism_nb.notebook; print({slow} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_figure_has_titles_a_table_a_note_and_files(evaluated: Run, displayed: list[Any]) -> None:
    nb.figure(evaluated, "accuracy")
    bundle, numbers = displayed
    assert [bar["name"] for bar in bundle["application/vnd.plotly.v1+json"]["data"]] == [
        "PRISM",
        "Random real",
    ]
    assert ">Random real<" in numbers
    assert "random_real" not in numbers
    assert "<p>Protocol: " in numbers
    assert "/figures/accuracy.plotly.json'>figures/accuracy.plotly.json</a>" in numbers
    assert "random_real" in evaluated.file("figures/accuracy.csv").read_text()


def test_a_result_without_a_figure_shows_its_note(evaluated: Run, displayed: list[Any]) -> None:
    nb.figure(evaluated, "published")
    (note,) = displayed
    assert "No published result on record" in note
    assert not evaluated.file("figures").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: nb.figure(run, "acuracy"), "no result is called 'acuracy'; did you mean"),
        (lambda run: nb.pictures(run, "image"), "no picture is called 'image'; did you mean"),
        (lambda run: nb.choose(run, "students"), "called 'students'; did you mean 'student'"),
    ],
)
def test_unknown_names_are_refused(evaluated: Run, call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(evaluated)


def test_an_untouched_choice_has_its_default(evaluated: Run) -> None:
    defaults = {
        "student": "test_resnet",
        "method": "prism",
        "baseline": "random_real",
        "network": "test_mambaout",
        "measure": "cosine",
    }
    assert {what: nb.choose(evaluated, what).value for what in defaults} == defaults


def test_outputs_follow_what_is_chosen(evaluated: Run, displayed: list[Any]) -> None:
    baseline = nb.choose(evaluated, "baseline")
    nb.figure(evaluated, "class_gains", baseline=baseline)
    nb.figure(evaluated, "published")
    nb.figure(evaluated, "class_gains", baseline=baseline)  # as when its cell is run again
    before = [*displayed]
    baseline.children[0].value = "prism"
    changed = [old is not new and old != new for old, new in zip(before, displayed, strict=True)]
    assert changed == [False, False, False, True, True]
    assert "Gain over PRISM" in str(displayed[3])


@pytest.mark.parametrize("writable", [False, True])
def test_figures_are_saved_where_the_folder_is_writable(
    evaluated: Run, displayed: list[Any], monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: writable or path != evaluated.path)
    monkeypatch.setitem(
        nb.RUN_PICTURES, "images", lambda run, method: EncodedImage(b"\x89PNG", "png")
    )
    nb.figure(evaluated, "transfer")
    monkeypatch.setitem(nb.RUN_PICTURES, "near_duplicates", lambda run, method: None)
    nb.pictures(evaluated, "near_duplicates", methods=["prism"])
    assert displayed[-1] == "<b>PRISM</b>: not defined"
    nb.pictures(evaluated, "images", methods=["prism"])
    expected = ">figures/images_prism.png</a>" if writable else "read-only"
    assert displayed[-1].startswith("<b>PRISM</b>")
    assert expected in displayed[-1]
    for name in ("transfer.plotly.json", "images_prism.png"):
        assert evaluated.file(f"figures/{name}").is_file() == writable


def test_a_lost_lease_is_named_by_its_message_alone() -> None:
    error = cell_error(LeaseLostError.__name__, "taken over")
    assert (type(error), str(error)) == (PrismError, "taken over")


def test_an_opened_run_shows_its_settings(run: Run, displayed: list[Any]) -> None:
    nb.open_run({"run_name": run.name, "runs_dir": str(run.path.parent)})
    assert str(run.path) in displayed[0]
    assert "squeeze_epochs" in displayed[1]


@pytest.mark.parametrize("is_assigned", [False, True])
def test_names_of_startup_files_are_no_parameters(
    run: Run, displayed: list[Any], monkeypatch: pytest.MonkeyPatch, is_assigned: bool
) -> None:
    at_start: dict[str, Any] = {"seed": 7, "device": "a module"}
    shell = SimpleNamespace(user_ns_hidden=at_start)
    monkeypatch.setattr(nb, "get_ipython", lambda: shell)
    place = {"run_name": "new", "runs_dir": str(run.path.parent), "preset": "digits_quick"}
    cells = ["# Parameters\nseed = 7"] if is_assigned else ["seed"]
    opened = nb.open_run({**at_start, **place, "ipc": 3, "In": cells})
    assert opened.settings.device == "auto"
    assert (opened.settings.seed == 7) == is_assigned
    assert opened.settings.ipc == 3


def test_a_folder_of_ones_own_is_checked(run: Run, tmp_path: Path, displayed: list[Any]) -> None:
    nb.check_data(run)
    assert "only folders of one's own" in displayed[-1]
    root = make_tree(tmp_path / "images", train=20)
    changes = {"dataset": "folder", "data_dir": str(root)}
    nb.check_data(Run(tmp_path / "f", load_settings("digits_quick", changes)))
    assert "ape" in displayed[-2]
    assert "advice: ipc=2 or less" in displayed[-1]
