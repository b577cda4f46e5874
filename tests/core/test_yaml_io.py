"""Strict models and YAML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field

from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import (
    StrictModel,
    YamlFolder,
    read_lines,
    read_mapping,
    read_yaml,
    write_yaml,
)


class Model(StrictModel):
    """A model with one field of each kind."""

    count: int = Field(1, ge=1)
    rate: float = 0.5
    name: str = "x"
    flag: bool = False
    names: tuple[str, ...] = ()


def refusal(values: dict[str, Any]) -> str:
    """Return the message with which the model refuses some values."""
    with pytest.raises(UsageError) as caught:
        Model.parse(values, where="here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5.0e-3", 0.005),
        (".5", 0.5),
        ("0", 0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("'5'", "5"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = read_yaml(text, where="here")
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    "text",
    [
        "[1",
        "a: b: c",
        "\tx: 1",
        "!!bool x",
        "!!python/name:os.system x",
        "recipe: {ipc: 1, ipc: 2}",
        "a: &a [x]\nb: *a",
    ],
)
def test_invalid_yaml_is_one_line_that_names_the_source(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_yaml(text, where="the file")
    message = str(caught.value)
    assert message.startswith("the file is not valid YAML: ")
    assert "\n" not in message


_LOOK_ALIKES = [
    *["0", "010", "-0", "5\n", "1e-3", ".5", "5.", "0x1F", ".nan", "-.inf", "2024-01-01"],
    *["true", "False", "null", "~", "", "on", "yes", "no"],
    *["<<", "=", "- a", "a: b", "# a", "!!int 1", "&a", "*a"],
]
_KEYS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(_LOOK_ALIKES)
_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
@hypothesis_settings(max_examples=300, deadline=None)
def test_written_yaml_reads_back_equal(values: dict[str, Any]) -> None:
    # By repr, since 1 == True == 1.0 and -0.0 == 0.0.
    assert repr(read_yaml(write_yaml(values), where="here")) == repr(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", "3"),
        ("count", 3.0),
        ("count", True),
        ("rate", "0.5"),
        ("rate", float("nan")),
        ("name", 5),
        ("flag", 1),
        ("names", "resnet18"),
        ("names", ["a", 1]),
    ],
)
def test_other_types_and_infinite_numbers_are_refused(field: str, value: object) -> None:
    message = refusal({field: value})
    shown = value[1] if isinstance(value, list) else value
    assert message.startswith(f"here: {field}")
    assert message.endswith(f"got {shown!r}")


def test_wrong_values_are_shown_and_cut() -> None:
    assert refusal({"count": 0}) == "here: count: Input should be greater than or equal to 1, got 0"
    message = refusal({"count": "x" * 10_000})
    assert message.endswith("xxx…")
    assert len(message) < 300
    for value in ({1, 2}, os.fsdecode(b"caf\xe9")):
        assert "use numbers, text, lists and dicts only" in refusal({"name": value})


def test_unknown_names_are_refused_with_the_nearest_or_all() -> None:
    assert refusal({"cuont": 3}) == "here: unknown setting 'cuont'; did you mean 'count'?"
    assert "valid: count, flag, name, names, rate" in refusal({"zzzzzz": 3})


def test_names_inside_are_compared_with_those_of_their_model() -> None:
    class Outer(StrictModel):
        inner: Model | None = None
        several: dict[str, Model] = Field({})

    for values, place in [
        ({"inner": {"cuont": 3}}, "inner"),
        ({"several": {"a": {"cuont": 3}}}, "several.a"),
    ]:
        with pytest.raises(UsageError, match=rf"'{place}\.cuont'; did you mean 'count'\?"):
            Outer.parse(values, where="here")


def test_files_of_no_names_and_missing_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    with pytest.raises(UsageError, match="it cannot be read"):
        read_mapping(path, where="it")
    path.write_text("")
    with pytest.raises(UsageError, match="it must hold lines of `name: value`"):
        read_mapping(path, where="it")


def test_lines_are_read_without_comments_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\ufeffcat\n\n# no\n dog \n", encoding="utf-8")
    assert read_lines(tmp_path / "x.txt", where="it") == ["cat", "dog"]


def test_a_folder_of_named_files(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("a: 2\n")
    (tmp_path / "one.yaml").write_text("a: 1\n")
    folder = YamlFolder(tmp_path, "thing")
    assert folder.names() == ["one", "two"]
    assert folder.read("two") == {"a": 2}
    with pytest.raises(UsageError, match="unknown thing 'tow'; did you mean 'two'"):
        folder.read("tow")
