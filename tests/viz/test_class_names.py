"""Classes by the words that people give for them."""

import pytest

from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import ClassInfo
from prism_nb.viz.tables import class_label, class_titles, parse_class_selection

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
def test_what_names_classes(text: str, expected: tuple[int, ...]) -> None:
    assert parse_class_selection(text, CLASSES) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4", "numbered from 0 to 3"),
        ("3-1", "numbered from 0 to 3"),
        ("crane", "several classes; give a number: 1, 2"),
        ("tabbi", "no class 'tabbi'; did you mean"),
        ("0, zebra", "no class 'zebra'"),
    ],
)
def test_what_names_none_is_said_in_words(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_class_selection(text, CLASSES)


def test_every_label_leads_back_to_its_class() -> None:
    for info in CLASSES:
        assert parse_class_selection(class_label(info), CLASSES) == (info.index,)


def test_classes_of_one_name_are_told_apart_in_tables() -> None:
    titles = class_titles(CLASSES)
    assert titles == ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)", titles[3]]
    assert titles[3] == "tabby, tabby cat"
