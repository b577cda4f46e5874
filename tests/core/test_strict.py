"""Strict models and YAML: nothing is guessed, nothing unknown is ignored."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import StrictModel, read_mapping, read_yaml, write_yaml


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


# -- YAML ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("5.0e-3", 0.005),
        (".5", 0.5),
        ("-2.", -2.0),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o7", "0o7"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("'5'", "5"),
    ],
)
def test_yaml_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    read = read_yaml(text, where="here")
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x\n", "a: 1\nb: *unknown\n", "a: &x 1\n*x : 2\n"])
def test_alias_is_refused_by_name_and_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"here: line 2 holds the alias \*.*write out what it"):
        read_yaml(text, where="here")


def test_aliases_of_aliases_are_refused_before_they_unfold() -> None:
    names = "abcdefghijkl"
    lines = [f"{a}: &{a} [{', '.join([f'*{b}'] * 10)}]" for b, a in pairwise(names)]
    with pytest.raises(UsageError, match=r"line 2 holds the alias \*a"):
        read_yaml("\n".join(["a: &a [x]", *lines, "ipc: *l"]), where="here")


def test_value_that_stands_at_two_places_is_written_at_both() -> None:
    shared = [1, {"x": 2}]
    text = write_yaml({"a": shared, "b": shared})
    assert read_yaml(text, where="here") == {"a": shared, "b": shared}


def test_file_beyond_the_size_of_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("#" * (2**20 - 10) + "\nipc: 1\n")
    assert read_mapping(path, where="it") == {"ipc": 1}
    path.write_text("#" * 2**20 + "\nipc: 1\n")
    with pytest.raises(UsageError, match="it is not read: it is larger than 1 MiB; keep settings"):
        read_mapping(path, where="it")


def test_doubled_yaml_key_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="ipc stands twice"):
        read_yaml("ipc: 1\nseed: 0\nipc: 2\n", where="here")


def test_doubled_yaml_key_in_an_inner_mapping_is_refused() -> None:
    with pytest.raises(UsageError, match="lr stands twice"):
        read_yaml("recipe: {lr: 1, lr: 2}", where="here")


@pytest.mark.parametrize(
    "text",
    [
        "[1",
        "a: b: c",
        "\tx: 1",
        "!!int x",
        "!!bool x",
        "!!timestamp x",
        "!!python/name:os.system x",
    ],
)
def test_bad_yaml_is_one_line_that_says_where(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_yaml(text, where="the file")
    message = str(caught.value)
    assert message.startswith("the file is not valid YAML: ")
    assert "\n" not in message


def test_bad_yaml_names_its_line() -> None:
    with pytest.raises(UsageError, match="line 3"):
        read_yaml("a: 1\nb: 2\nc: [1\n", where="here")


_NUMBER_LIKE = ["0", "010", "-0", "5\n", "1e-3", ".5", "5.", "0x1F", ".nan", "-.inf", "2024-01-01"]
_WORD_LIKE = ["true", "False", "null", "~", "", "on", "yes", "no"]
_SYNTAX_LIKE = ["<<", "=", "- a", "a: b", "# a", "!!int 1", "&a", "*a"]
_LOOK_ALIKES = st.sampled_from([*_NUMBER_LIKE, *_WORD_LIKE, *_SYNTAX_LIKE])
# PyYAML loses U+0085; see the test below.
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"))
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
    | _LOOK_ALIKES
)
_KEYS = _TEXT | _LOOK_ALIKES
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
@hypothesis_settings(max_examples=300, deadline=None)
def test_yaml_reads_back_what_it_wrote(values: dict[str, Any]) -> None:
    # By repr, since 1 == True == 1.0 and -0.0 == 0.0.
    assert repr(read_yaml(write_yaml(values), where="here")) == repr(values)


def test_yaml_keeps_the_next_line_character() -> None:
    assert read_yaml(write_yaml({"name": "a\x85b"}), where="here") == {"name": "a\x85b"}


# -- models ----------------------------------------------------------------------------------


def test_unknown_name_is_refused_with_the_nearest() -> None:
    message = refusal({"cuont": 3})
    assert message == "here: unknown setting 'cuont'; did you mean 'count'?"


def test_name_like_none_is_refused_with_all_valid_ones() -> None:
    assert "valid: count, flag, name, names, rate" in refusal({"zzzzzz": 3})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", "3"),
        ("count", 3.0),
        ("count", True),
        ("count", None),
        ("rate", "0.5"),
        ("rate", False),
        ("name", 5),
        ("flag", 1),
        ("flag", "true"),
        ("names", "resnet18"),
        ("names", ["a", 1]),
    ],
)
def test_value_of_another_type_is_refused_and_shown(field: str, value: object) -> None:
    message = refusal({field: value})
    shown = value[1] if isinstance(value, list) else value
    assert message.startswith(f"here: {field}")
    assert message.endswith(f"got {shown!r}")


def test_value_out_of_range_is_refused_and_shown() -> None:
    assert refusal({"count": 0}) == "here: count: Input should be greater than or equal to 1, got 0"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_number_that_is_not_finite_is_refused(value: float) -> None:
    assert refusal({"rate": value}) == (
        f"here: rate: Input should be a finite number, got {value!r}"
    )


def test_value_without_end_is_cut_in_the_message() -> None:
    message = refusal({"count": "x" * 10_000})
    assert message.endswith("xxx…")
    assert len(message) < 300


def test_every_problem_stands_in_one_message() -> None:
    message = refusal({"count": "x", "rate": None, "nmae": "y"})
    assert "count: " in message
    assert "rate: " in message
    assert "unknown setting 'nmae'" in message
    assert "\n" not in message


def test_value_that_json_lacks_is_refused() -> None:
    assert "use numbers, text, lists and dicts only" in refusal({"name": {1, 2}})


def test_whole_number_stands_for_a_float() -> None:
    assert repr(Model.parse({"rate": 1}, where="here").rate) == "1.0"


def test_list_stands_for_a_tuple() -> None:
    assert Model.parse({"names": ["a", "b"]}, where="here").names == ("a", "b")


def test_model_is_frozen() -> None:
    model = Model.parse({}, where="here")
    with pytest.raises(ValidationError, match="frozen"):
        model.count = 2


def test_plain_values_build_the_same_model() -> None:
    model = Model.parse({"names": ["a"], "rate": 0.25, "flag": True}, where="here")
    assert Model.parse(model.plain(), where="here") == model


def test_text_nested_beyond_reason_is_refused() -> None:
    with pytest.raises(UsageError, match="deep is not valid YAML"):
        read_yaml("[" * 5000, where="deep")
