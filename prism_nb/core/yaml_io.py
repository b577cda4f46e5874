"""Strict models and strict YAML: nothing is guessed, and nothing unknown is ignored."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from prism_nb.core.errors import UsageError, suggest

_MAX_SHOWN = 200  # characters of a wrong value in a message


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys and never converts between types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], *, where: str) -> Self:
        """Build the model from plain values.

        `where` says in messages what the values are ("preset digits", "--set").
        """
        try:
            # Through JSON, where strict mode accepts a list for a tuple but no text for a number.
            text = json.dumps(values, ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{where}: {error}; use numbers, text, lists and dicts only") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            lines = [cls._explain(problem) for problem in error.errors()]
            raise UsageError(f"{where}: " + "; ".join(lines)) from None

    def plain(self) -> dict[str, Any]:
        """Return the values as JSON would hold them."""
        return self.model_dump(mode="json")

    @classmethod
    def location(cls, loc: tuple[str | int, ...]) -> str:
        """Return the name of a place in the values, for messages."""
        return ".".join(map(str, loc))

    @classmethod
    def _model_at(cls, loc: tuple[str | int, ...]) -> type[BaseModel]:
        """Return the model at a place in the values."""
        model: type[BaseModel] = cls
        for part in loc:
            if part in model.model_fields:  # else the key of a mapping, or a place in a list
                annotation = model.model_fields[str(part)].annotation
                inner = (t for t in (annotation, *get_args(annotation)) if isinstance(t, type))
                model = next((t for t in inner if issubclass(t, BaseModel)), model)
        return model

    @classmethod
    def _explain(cls, problem: Any) -> str:
        name = cls.location(problem["loc"])
        if problem["type"] == "extra_forbidden":
            valid = cls._model_at(problem["loc"][:-1]).model_fields
            return f"unknown setting {name!r}; {suggest(str(problem['loc'][-1]), valid)}"
        message = problem["msg"].removeprefix("Value error, ").replace("array", "list")
        message = message.replace("an object", "a mapping of names")
        if problem["type"] in {"missing", "value_error"}:
            return f"{name}: {message}" if name else message
        shown = repr(problem["input"])
        shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
        return f"{name or 'values'}: {message}, got {shown}"


@dataclass(frozen=True)
class YamlFolder:
    """A folder of YAML files of a kind, e.g. "protocol", that users name by their stems."""

    folder: Path
    kind: str

    def names(self) -> list[str]:
        """Return the names of the files, without ending."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def path(self, name: str) -> Path:
        """Return the file of a name."""
        if name not in self.names():
            raise UsageError(f"unknown {self.kind} {name!r}; {suggest(name, self.names())}")
        return self.folder / f"{name}.yaml"

    def read(self, name: str) -> dict[str, Any]:
        """Return the values in the file of a name."""
        return read_mapping(self.path(name), where=f"{self.kind} {name}")


def read_mapping(path: Path, *, where: str) -> dict[str, Any]:
    """Read a YAML file of names and values; `where` is its name in messages."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where} cannot be read: {error}") from None
    values = read_yaml(text, where=where)
    if not isinstance(values, dict):
        raise UsageError(f"{where} must hold lines of `name: value`")
    return values


def read_lines(path: Path, *, where: str) -> list[str]:
    """Read the lines of a text file, without empty ones and those that begin with `#`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {path} cannot be read: {error}") from None
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read_yaml(text: str, *, where: str) -> Any:
    """Read one YAML document safely; a refusal gives the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (LookupError, AttributeError):  # PyYAML's errors for `!!bool x`, without a line
        raise UsageError(f"{where} is not valid YAML: a tag does not fit its value") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise UsageError(f"{where} is not valid YAML: {problem}") from None


def write_yaml(values: dict[str, Any]) -> str:
    """Return YAML text that `read_yaml` reads back to equal values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, where 1e-3 is a number and `on` and 010 are text.

    PyYAML follows YAML 1.1, where 1e-3 is text, `on` is True and 010 is 8. Repeated keys are
    errors, and so are aliases, since ten lines of aliases of aliases can fill any memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"aliases are not read (*{alias.anchor}); write the value out",
                alias.start_mark,
            )  # fmt: skip
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        counts = Counter(key for key in keys if isinstance(key, Hashable))
        repeated = sorted(str(key) for key, count in counts.items() if count > 1)
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {', '.join(repeated)} is repeated", node.start_mark
            )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes for `_Loader`: text that looks like a number is quoted, and aliases are not used."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
)
for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _SCALARS:
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^{_pattern}$"), _first
        )
