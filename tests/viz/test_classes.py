"""Classes by their names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.data.dataset import ClassInfo
from prism_nb.viz import classes

CLASSES = (
    ClassInfo(0, "n01440764", "tench, Tinca tinca"),
    ClassInfo(1, "n02012849", "crane"),
    ClassInfo(2, "n03126707", "crane"),
    ClassInfo(3, "n02123045", "tabby, tabby cat"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 1, 2, 3)),
        ("  All classes ", (0, 1, 2, 3)),
        ("2", (2,)),
        ("1-3", (1, 2, 3)),
        ("3, 0, 3", (3, 0)),
        ("0 · tench", (0,)),
        ("Tench", (0,)),
        ("tench, Tinca tinca", (0,)),
        ("tinca tinca", (0,)),
        ("n03126707", (2,)),
        ("tabby cat, 1", (3, 1)),
    ],
)
def test_classes_are_named_in_many_ways(text: str, expected: tuple[int, ...]) -> None:
    assert classes.parse_class_selection(text, CLASSES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", "numbered from 0 to 3"),
        ("3-1", "numbered from 0 to 3"),
        ("crane", r"several classes; give a number: \[1, 2\]"),
        ("tabbi", "no class 'tabbi'; did you mean"),
    ],
)
def test_what_names_no_class_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        classes.parse_class_selection(text, CLASSES)


def test_class_names_are_unique_and_labels_lead_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "open_dataset", lambda _: SimpleNamespace(classes=CLASSES))
    crane = "crane (n02012849)", "crane (n03126707)"
    assert classes.class_names(run)[:3] == ["tench, Tinca tinca", *crane]
    for info in CLASSES:
        assert classes.parse_class_selection(classes.class_label(info), CLASSES) == (info.index,)
