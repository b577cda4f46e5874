"""What a study is: one YAML file that says which runs it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import Field, model_validator

from prism_nb.core import fileio
from prism_nb.core.config import (
    build_settings,
    default_runs_dir,
    merge,
    read_preset,
    resolve_references,
    short_hash,
)
from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.presets import find_file, studies
from prism_nb.core.recipe import Names, make_recipe
from prism_nb.core.run import Run, check_name
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import network_units
from prism_nb.core.yaml_io import StrictModel, read_mapping
from prism_nb.data.registry import open_dataset, with_dataset_hash
from prism_nb.evaluation.stage import student_table
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import preflight
from prism_nb.execution.process_pool import Call, run_calls

Value = bool | int | float | str


class Search(StrictModel):
    """A choice of settings that every optimising method gets alike.

    It scores on a part of the training images (`eval_split: tuning`), never on the test images.
    """

    settings: dict[str, Any] = Field({}, description="settings of the runs that are searched in")
    grid: dict[str, list[Value]] = Field(description="values of recipe settings, all combinations")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.grid or not all(self.grid.values()):
            raise ValueError("grid: name at least one recipe setting, with at least one value")
        return self


class Scenario(StrictModel):
    """One setting that the methods are compared in."""

    title: str = Field(description="name in figures")
    settings: dict[str, Any] = Field({}, description="settings beside the study's")
    tuned_by: str | None = Field(None, description="the search whose winners it uses")


class Study(StrictModel):
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
            "eval_split": "a search scores on part of the training images",
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


def load_study(study: str) -> Study:
    """Read a study.

    Args:
        study: The name of a study, or the path of a YAML file.

    Raises:
        UsageError: No such study, or anything unknown, mistyped or contradictory in it.
    """
    path = find_file(studies(), study)
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
    return {"settings": resolve_references(settings, folder)} if isinstance(settings, dict) else {}


# What a search needs to know is what students learn; the rest of a run is left out.
_SEARCH_STAGES = ("squeeze", "synthesis", "relabel", "evaluation")
_ALL_STAGES = ("squeeze", "synthesis", "diversity", "relabel", "evaluation")

BestSettings = dict[tuple[str, str], dict[str, Value]]  # (search, method) -> recipe settings


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        name: The run's name.
        settings: Its settings.
        stages: The stages that it goes through, in order.
    """

    name: str
    settings: Settings
    stages: tuple[str, ...]


def search_runs(study: Study) -> dict[tuple[str, str], StudyRun]:
    """Return the runs of all searches, one per search and method, by both names.

    A run's methods are the method with each combination of the grid; see `variants`.
    """
    cells = {
        (name, method): _search_cell(study, name, method)
        for name in study.searches
        for method in _searched(study, name)
    }
    names = [cell.name for cell in cells.values()]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two searches would share the folder {name}; rename one of them")
    return cells


def grid_points(study: Study, search: str, method: str) -> dict[str, dict[str, Value]]:
    """Return a search's combinations of values, by the name that a method has with them."""
    grid = study.searches[search].grid
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {f"{method}-{place}": values for place, values in enumerate(combinations)}


def scenario_runs(study: Study, choice: BestSettings) -> dict[tuple[str, int], StudyRun]:
    """Return the runs of all scenarios, by scenario and replicate.

    Args:
        study: The study.
        choice: What the searches chose; nothing is laid over a method that is not in it.
    """
    _refuse_recipes_of_nobody(study)
    return {
        (name, replicate): StudyRun(
            name=f"{name}-{replicate}",
            settings=_scenario_settings(study, name, replicate, choice),
            stages=_ALL_STAGES,
        )
        for replicate in range(study.replicates)
        for name in study.scenarios
    }


def _scenario_settings(study: Study, name: str, replicate: int, choice: BestSettings) -> Settings:
    scenario = study.scenarios[name]
    values = _values(study, scenario.settings, where=f"scenario {name}")
    tuned = {
        method: {**values.get("recipes", {}).get(method, {}), **choice[scenario.tuned_by, method]}
        for method in values["methods"]
        if scenario.tuned_by is not None and (scenario.tuned_by, method) in choice
    }
    recipes = {**values.get("recipes", {}), **tuned}
    chosen = {**values, "replicate": replicate, "recipes": _of_methods(recipes, values)}
    return with_dataset_hash(build_settings(chosen, where=f"scenario {name}"))


def _search_cell(study: Study, search: str, method: str) -> StudyRun:
    place = f"search {search}, method {method}"
    values = _values(study, study.searches[search].settings, where=place)
    own = values.get("recipes", {}).get(method, {})
    base = {} if "base" in own or "title" in own else {"base": method}
    found = grid_points(study, search, method)
    recipes = {name: {**base, **own, **chosen, "title": name} for name, chosen in found.items()}
    settings = {**values, "methods": list(recipes), "recipes": recipes, "eval_split": "tuning"}
    return StudyRun(
        name=f"search-{search}-{method}",
        settings=with_dataset_hash(build_settings(settings, where=place)),
        stages=_SEARCH_STAGES,
    )


def _searched(study: Study, name: str) -> list[str]:
    """Return the methods that a search is for: those of its scenarios that optimise anything."""
    methods: dict[str, None] = {}
    for scenario in study.scenarios.values():
        if scenario.tuned_by == name:
            values = _values(study, scenario.settings, where=f"search {name}")
            recipes, shared = values.get("recipes", {}), values.get("recipe", {})
            for method in values["methods"]:
                if make_recipe(method, recipes.get(method, {}), shared).image_source == "optimized":
                    methods[method] = None
    return list(methods)


class _Methods(StrictModel):
    methods: Names = ("prism",)
    recipe: dict[str, Any] = Field({})
    recipes: dict[str, dict[str, Any]] = Field({})


def _values(study: Study, settings: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Lay settings over the study's, checked as far as what follows relies on their types."""
    values = merge(merge(read_preset(study.preset), study.settings), settings)
    about_methods = {k: v for k, v in values.items() if k in _Methods.model_fields}
    parsed = _Methods.parse(about_methods, where=where)
    return {**values, "methods": list(parsed.methods)}


def _refuse_recipes_of_nobody(study: Study) -> None:
    """Refuse a study's recipe of a method that no scenario runs: a misspelt name, most likely."""
    methods: dict[str, None] = {}
    for name, scenario in study.scenarios.items():
        values = _values(study, scenario.settings, where=f"scenario {name}")
        methods |= dict.fromkeys(values["methods"])
    for method in study.settings.get("recipes", {}):
        if method not in methods:
            raise UsageError(
                f"settings.recipes: no scenario runs {method!r}; {suggest(method, methods)}"
            )


def _of_methods(recipes: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the recipes of methods that this scenario does not run."""
    return {method: own for method, own in recipes.items() if method in values["methods"]}


_RECORD = "study.json"


@dataclass(frozen=True)
class StudyFolder:
    """A study and where its runs lie, looked at once: ask `fresh` for what has come since.

    Attributes:
        path: The folder; each run is a folder in it.
        study: What is studied.
        source: Name or file that the study was read from.
    """

    path: Path
    study: Study
    source: str = ""

    @classmethod
    def open(
        cls, study: str, *, runs_dir: str | Path | None = None, name: str | None = None
    ) -> StudyFolder:
        """Open a study's folder, or begin it.

        Args:
            study: A study's name or file.
            runs_dir: Folder of the runs; `default_runs_dir` where None.
            name: Name of the study's folder in it; the study's own where None.

        Raises:
            UsageError: The study is wrong, or the folder holds results of another one.
        """
        loaded = load_study(study)
        name = Path(study).stem if name is None else name
        check_name(name)
        runs = Path(runs_dir).absolute() if runs_dir else default_runs_dir()
        folder = cls(runs / name, loaded, study)
        folder.refuse_mixing()
        return folder

    @cached_property
    def searches(self) -> dict[tuple[str, str], StudyRun]:
        """The runs of the searches, by search and method."""
        return search_runs(self.study)

    @cached_property
    def scenarios(self) -> dict[tuple[str, int], StudyRun]:
        """The runs of the scenarios, by scenario and replicate, with what is chosen."""
        return scenario_runs(self.study, self.choice)

    @cached_property
    def finished(self) -> dict[tuple[str, int], StudyRun]:
        """Those of the scenarios' runs that are done."""
        return {key: cell for key, cell in self.scenarios.items() if self.is_done(cell)}

    def fresh(self) -> StudyFolder:
        """Return the folder as it is now."""
        return StudyFolder(self.path, self.study, self.source)

    def run(self, cell: StudyRun) -> Run:
        """Return the run of a cell."""
        return Run(self.path / cell.name, cell.settings)

    def is_done(self, cell: StudyRun) -> bool:
        """Return whether every unit of a cell is there; files are looked for, not hashed."""
        run = self.run(cell)
        if not (run.path / "config.yaml").is_file():
            return False
        return not any(pipeline.plan(run, stage, deep=False).missing for stage in cell.stages)

    def search_table(self, search: str, method: str) -> dict[str, float]:
        """Return what each variant's students reached in a finished search, in [0, 1]."""
        students = student_table(self.run(self.searches[search, method]))
        return {str(k): float(v) for k, v in students.groupby("method")["last"].mean().items()}

    @cached_property
    def choice(self) -> BestSettings:
        """What the finished searches chose: the best mean accuracy, ties to the first."""
        chosen: BestSettings = {}
        for (search, method), cell in self.searches.items():
            if self.is_done(cell):
                scores = self.search_table(search, method)
                values = grid_points(self.study, search, method)
                chosen[search, method] = values[max(values, key=lambda name: scores[name])]
        return chosen

    def record(self) -> None:
        """Write down which study this folder holds."""
        fileio.write_json(self.path / _RECORD, self.study.plain())

    def refuse_mixing(self) -> None:
        """Check that the folder holds nothing but results of this study.

        Titles may change, more replicates and scenarios may join, and scenarios may be left out.

        Raises:
            UsageError: It holds a run, or results of a study that differs; what differs is named.
        """
        if (self.path / "config.yaml").exists():
            raise UsageError(f"{self.path} is a run; give the study another name")
        found = fileio.read_record(self.path / _RECORD)
        if not found:
            return
        old, new = _binding_parts(found), _binding_parts(self.study.plain())
        differing = [part for part in new if part in old and old[part] != new[part]]
        if differing:
            raise UsageError(
                f"{self.path} holds another study ({', '.join(differing)} differ); give this one "
                "another name (--name, or `name` in the notebook), or delete that folder"
            )


def _binding_parts(plain: dict[str, Any]) -> dict[str, Any]:
    """Return what decides a study's results, part by part."""
    scenarios = plain.get("scenarios", {})
    parts = {name: plain.get(name) for name in ("preset", "settings", "searches")}
    for name, scenario in scenarios.items():
        parts[f"scenarios.{name}"] = {k: v for k, v in scenario.items() if k != "title"}
    return parts


Say = Callable[[str], None]


@dataclass(frozen=True)
class _Round:
    """Cells that may run side by side, and what to call them."""

    name: str
    cells: list[StudyRun]


def execute_study(folder: StudyFolder, *, workers: int, say: Say) -> None:
    """Do what is left of a study. Call it again after any interruption.

    Teachers first, once for all runs that share them; then the searches; then the scenarios
    with what the searches chose.

    Args:
        folder: The study.
        workers: Runs side by side; each has one CPU thread, so that results do not depend on it.
        say: Receives a line per finished run.

    Raises:
        PrismError: A run failed. Finished units of all runs stay.
    """
    check_study(folder)
    searches, scenarios = list(folder.searches.values()), list(folder.scenarios.values())
    folder.record()
    _carry_out(folder, _Round("squeeze", _teachers([*searches, *scenarios])), workers, say)
    _carry_out(folder, _Round("search", searches), workers, say)
    folder = folder.fresh()
    chosen = list(folder.scenarios.values())
    for cell in chosen:
        folder.run(cell).check_settings()
    _carry_out(folder, _Round("scenario", chosen), workers, say)


def check_study(folder: StudyFolder) -> None:
    """Check, before any work, that every run of a study can be carried out.

    Raises:
        UsageError: The first thing that cannot work; which run it is about stands before it.
    """
    for cell in folder.searches.values():
        folder.run(cell).check_settings()
    for cell in [*folder.searches.values(), *folder.scenarios.values()]:
        try:
            preflight(cell.settings, folder.run(cell))
        except UsageError as error:
            raise UsageError(f"run {cell.name}: {error}") from None


def default_workers() -> int:
    """Return how many runs go side by side where nothing is asked for: one per core, at most 8."""
    return min(8, os.cpu_count() or 1)


def plan_table(folder: StudyFolder, workers: int) -> pd.DataFrame:
    """Return how many runs each part of a study has, how many are done, and the time left.

    The time is what finished units took, scaled to what is to be done.
    """
    rows = {}
    for name, cells in (("search", folder.searches), ("scenarios", folder.scenarios)):
        done = [cell for cell in cells.values() if folder.is_done(cell)]
        rate = _seconds(folder, done) / sum(map(_cost, done)) if done else None
        left = sum(_cost(cell) for cell in cells.values() if cell not in done)
        minutes = "not measured" if rate is None else f"{left * rate / workers / 60:.0f} min"
        rows[name] = {"runs": len(cells), "done": len(done), "time left": minutes}
    return pd.DataFrame.from_dict(rows, orient="index")


def _seconds(folder: StudyFolder, cells: Sequence[StudyRun]) -> float:
    """Return the seconds that finished units took, without those of teachers."""
    total = 0.0
    for cell in cells:
        run = folder.run(cell)
        units = [u for s in cell.stages[1:] for u in pipeline.stage_units(run, s)]
        total += sum(run.units.record(unit)["seconds"] for unit in units)
    return total


def run_study_run(folder: str, cell: StudyRun) -> float:
    """Take one run through its stages; return the seconds that took. Runs in a worker."""
    begin = time.monotonic()
    run = Run.create(Path(folder) / cell.name, cell.settings)
    run.write_classes(open_dataset(run.settings).class_records())
    for stage in cell.stages:
        pipeline.execute(run, stage)
    return time.monotonic() - begin


def _carry_out(folder: StudyFolder, batch: _Round, workers: int, say: Say) -> None:
    left = [cell for cell in batch.cells if not folder.is_done(cell)]
    if len(left) < len(batch.cells):
        say(f"{batch.name:<9} {len(batch.cells) - len(left)} of {len(batch.cells)} done before")
    largest_first = sorted(left, key=_cost, reverse=True)
    tasks = [
        Call(cell.name, "prism_nb.execution.study:run_study_run", (str(folder.path), cell))
        for cell in largest_first
    ]
    done = len(batch.cells) - len(left)
    for name, seconds in run_calls(tasks, workers=workers):
        done += 1
        say(f"{batch.name:<9} {done:>3} of {len(batch.cells)}  {name}, {seconds:.0f} s")


def _teachers(cells: Sequence[StudyRun]) -> list[StudyRun]:
    """Return one cell per distinct set of networks, cut down to the stage that trains them.

    Runs take over teachers that a sibling has trained in the same way.
    """
    distinct = {
        short_hash([u.fingerprint for u in network_units(cell.settings)]): cell
        for cell in reversed(cells)
    }
    return [StudyRun(cell.name, cell.settings, ("squeeze",)) for cell in distinct.values()]


def _cost(cell: StudyRun) -> float:
    """Rank a cell by how long it will take: what it optimises, roughly."""
    settings = cell.settings
    recipes = map(settings.recipe_of, settings.methods)
    steps = sum(recipe.iterations for recipe in recipes if recipe.image_source == "optimized")
    return max(1, steps) * settings.ipc
