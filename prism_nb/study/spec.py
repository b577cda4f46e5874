"""What a study is: one YAML file that says which runs it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from prism_nb.config import project_root, spelled_out
from prism_nb.errors import UsageError, suggest
from prism_nb.run import check_name
from prism_nb.strict import Strict, read_mapping

Value = bool | int | float | str


class Search(Strict):
    """A choice of settings that every optimising method gets alike.

    It scores on a part of the training images (`score_on: tuning`), never on the test images.
    """

    settings: dict[str, Any] = Field({}, description="settings of the runs that are searched in")
    grid: dict[str, list[Value]] = Field(description="values of recipe settings, all combinations")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.grid or not all(self.grid.values()):
            raise ValueError("grid: name at least one recipe setting, with at least one value")
        return self


class Scenario(Strict):
    """One setting that the methods are compared in."""

    title: str = Field(description="name in figures")
    settings: dict[str, Any] = Field({}, description="settings beside the study's")
    tuned_by: str | None = Field(None, description="the search whose winners it uses")


class Study(Strict):
    """Methods, scenarios and repetitions."""

    title: str = Field(description="heading of the page")
    question: str = Field("", description="what the study is to answer, for the page")
    preset: str = Field(description="the preset that every run starts from")
    settings: dict[str, Any] = Field({}, description="settings of every run")
    searches: dict[str, Search] = Field({}, description="searches by name")
    scenarios: dict[str, Scenario] = Field(description="scenarios by name")
    replicates: int = Field(3, ge=1, le=1000, description="repetitions of each scenario")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.scenarios:
            raise ValueError("scenarios: name at least one")
        for name in [*self.searches, *self.scenarios]:
            try:
                check_name(name)
            except UsageError as error:
                raise ValueError(f"scenarios and searches name folders: {error}") from None
        for name, scenario in self.scenarios.items():
            if scenario.tuned_by is not None and scenario.tuned_by not in self.searches:
                raise ValueError(
                    f"scenarios.{name}.tuned_by: {scenario.tuned_by!r} is no search; "
                    f"{suggest(scenario.tuned_by, self.searches)}"
                )
        self._refuse_what_is_not_theirs()
        return self

    def _refuse_what_is_not_theirs(self) -> None:
        """Refuse settings that the study decides itself, which would be laid aside silently."""
        own = {"replicate": "the study counts replicates"}
        searched = own | {
            "score_on": "a search scores on part of the training images",
            "methods": "a search is for the methods of the scenarios that it tunes",
        }
        places = {"settings": (self.settings, own)}
        for name, scenario in self.scenarios.items():
            tuned = {"recipes": "a search would not see them; put them into the study's settings"}
            taken = own | (tuned if scenario.tuned_by else {})
            places[f"scenarios.{name}.settings"] = (scenario.settings, taken)
        for name, search in self.searches.items():
            places[f"searches.{name}.settings"] = (search.settings, searched)
            if all(scenario.tuned_by != name for scenario in self.scenarios.values()):
                raise ValueError(f"searches.{name}: no scenario is tuned_by it")
        for place, (settings, taken) in places.items():
            for setting in settings:
                if setting in taken:
                    raise ValueError(f"{place}: leave out {setting}; {taken[setting]}")


def study_names() -> list[str]:
    """Return the names of the studies in `notebooks/studies`."""
    return sorted(path.stem for path in (project_root() / "notebooks" / "studies").glob("*.yaml"))


def load_study(study: str) -> Study:
    """Read a study.

    Args:
        study: A name of `study_names`, or the path of a YAML file.

    Raises:
        UsageError: No such study, or anything unknown, mistyped or contradictory in it.
    """
    path = Path(study)
    if path.suffix not in {".yaml", ".yml"}:
        if study not in study_names():
            raise UsageError(f"unknown study {study!r}; {suggest(study, study_names())}")
        path = project_root() / "notebooks" / "studies" / f"{study}.yaml"
    values = read_mapping(path, where=f"study {path}")
    return Study.parse(_with_files(values, path.parent), where=f"study {path}")


def _with_files(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read the recipe files that a study names, and find its preset, from its own folder."""
    found = dict(values)
    preset = values.get("preset")
    if isinstance(preset, str) and Path(preset).suffix in {".yaml", ".yml"}:
        found["preset"] = str(folder / preset)
    found |= _spelled_out(values, folder)
    for kind in ("scenarios", "searches"):
        if isinstance(values.get(kind), dict):
            found[kind] = {
                name: {**part, **_spelled_out(part, folder)} if isinstance(part, dict) else part
                for name, part in values[kind].items()
            }
    return found


def _spelled_out(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings among some values, with what names in them stand for."""
    settings = values.get("settings")
    return {"settings": spelled_out(settings, folder)} if isinstance(settings, dict) else {}
