"""Networks' shares in words, and their short names."""

import pytest

from prism_nb.viz.shares import dominance, short_names


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ({"a": 0.46, "b": 0.04}, "M: a has 92% of the BN teachers' pull: the others hardly count"),
        ({"a": 4.0, "b": 46.0}, "M: b has 92% of the BN teachers' pull: the others hardly count"),
        ({"a": 0.9, "b": 0.1}, ""),
        ({"a": 1.0}, ""),
        ({"a": 0.0, "b": 0.0}, ""),
        ({}, ""),
    ],
)
def test_one_teacher_with_nearly_all_is_named(shares: dict[str, float], found: str) -> None:
    sentence = dominance({"other": {"a": 1.0, "b": 1.0}, "M": shares})
    assert sentence.startswith(found)
    assert bool(sentence) == bool(found)


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    names = [
        *("timm/a@/far/a.pth", "b@V1", "b@V2", "resnet50.a1_in1k", "c", "c@wheel"),
        *("d@/one/d.pth", "d@/two/d.pth", "timm/e", "torchvision/e"),
    ]
    short = short_names(names)
    assert list(short) == names
    assert list(short.values()) == ["a", *names[1:]]
    assert short_names(["b@V1", "d@/one/d.pth", "d@/two/e.pth"]) == {
        "b@V1": "b",
        "d@/one/d.pth": "d@d.pth",
        "d@/two/e.pth": "d@e.pth",
    }
