"""Studies: methods x scenarios x replicates, each a run, after searches for recipe settings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
from prism_nb.execution.process_pool import run_parallel

Value = bool | int | float | str
BestSettings = dict[tuple[str, str], dict[str, Value]]  # (search, method) -> recipe settings
Log = Callable[[str], None]

# A search needs the students' accuracies alone.
_SEARCH_STAGES = ("squeeze", "synthesis", "relabel", "evaluation")
_ALL_STAGES = ("squeeze", "synthesis", "diversity", "relabel", "evaluation")
_RECORD = "study.json"


class Search(StrictModel):
    """A grid search that every optimizing method of its scenarios gets alike.

    It scores on a part of the training images (`eval_split: tuning`), never on the test images.
    """

    settings: dict[str, Any] = Field({}, description="settings of the search's runs")
    grid: dict[str, list[Value]] = Field(description="values of recipe settings, all combinations")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.grid or not all(self.grid.values()):
            raise ValueError("grid: name at least one recipe setting, with at least one value")
        return self


class Scenario(StrictModel):
    """One setting in which the methods are compared."""

    title: str = Field(description="name in figures")
    settings: dict[str, Any] = Field({}, description="settings that differ from the study's")
    tuned_by: str | None = Field(None, description="the search whose winners it uses")


class Study(StrictModel):
    """Methods, scenarios and replicates."""

    title: str = Field(description="heading of the page")
    question: str = Field("", description="the question of the study, for the page")
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
        own = {"replicate": "the study counts replicates"}
        self._refuse("settings", self.settings, own)
        for name, scenario in self.scenarios.items():
            if scenario.tuned_by is not None and scenario.tuned_by not in self.searches:
                raise ValueError(
                    f"scenarios.{name}.tuned_by: {scenario.tuned_by!r} is no search; "
                    f"{suggest(scenario.tuned_by, self.searches)}"
                )
            tuned = {"recipes": "the search does not use them; put them into the study's settings"}
            refused = own | (tuned if scenario.tuned_by else {})
            self._refuse(f"scenarios.{name}.settings", scenario.settings, refused)
        searched = own | {
            "eval_split": "a search scores on part of the training images",
            "methods": "a search is for the methods of the scenarios that it tunes",
        }
        for name, search in self.searches.items():
            self._refuse(f"searches.{name}.settings", search.settings, searched)
            if all(scenario.tuned_by != name for scenario in self.scenarios.values()):
                raise ValueError(f"searches.{name}: no scenario is tuned_by it")
        return self

    @staticmethod
    def _refuse(where: str, settings: Mapping[str, Any], refused: Mapping[str, str]) -> None:
        """Refuse settings that would be ignored silently, for the reason given."""
        for name in settings:
            if name in refused:
                raise ValueError(f"{where}: leave out {name}; {refused[name]}")


def load_study(study: str) -> Study:
    """Read a study by its name, or from a YAML file.

    Raises:
        UsageError: No such study, or anything unknown, mistyped or contradictory in it.
    """
    path = find_file(studies(), study)
    values = read_mapping(path, where=f"study {path}")
    preset = values.get("preset")
    if isinstance(preset, str) and Path(preset).suffix in {".yaml", ".yml"}:
        values["preset"] = str(path.parent / preset)
    groups = [part for kind in ("scenarios", "searches") for part in _parts(values.get(kind))]
    for part in (values, *groups):  # recipe files are relative to the study's
        if isinstance(part, dict) and isinstance(part.get("settings"), dict):
            part["settings"] = resolve_references(part["settings"], path.parent)
    return Study.parse(values, where=f"study {path}")


def _parts(group: object) -> list[Any]:
    return list(group.values()) if isinstance(group, dict) else []


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: its name, its settings and its stages in order."""

    name: str
    settings: Settings
    stages: tuple[str, ...]


def search_runs(study: Study) -> dict[tuple[str, str], StudyRun]:
    """Return the runs of all searches, by search and method.

    A run's methods are the method with each combination of the grid; see `grid_points`.
    """
    runs = {
        (name, method): _search_run(study, name, method)
        for name in study.searches
        for method in _searched_methods(study, name)
    }
    names = [run.name for run in runs.values()]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two searches would share the folder {name}; rename one of them")
    return runs


def grid_points(study: Study, search: str, method: str) -> dict[str, dict[str, Value]]:
    """Return the combinations of a search's values, by the name of the method with them."""
    grid = study.searches[search].grid
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {f"{method}-{index}": values for index, values in enumerate(combinations)}


def scenario_runs(study: Study, choice: BestSettings) -> dict[tuple[str, int], StudyRun]:
    """Return the runs of all scenarios, by scenario and replicate.

    Args:
        study: The study.
        choice: Results of the searches; other methods use their recipe unchanged.
    """
    values = {
        name: _values(study, scenario.settings, where=f"scenario {name}")
        for name, scenario in study.scenarios.items()
    }
    methods = dict.fromkeys(method for each in values.values() for method in each["methods"])
    for method in study.settings.get("recipes", {}):
        if method not in methods:
            raise UsageError(
                f"settings.recipes: no scenario runs {method!r}; {suggest(method, methods)}"
            )
    return {
        (name, replicate): _scenario_run(study, name, values[name], replicate, choice)
        for replicate in range(study.replicates)
        for name in study.scenarios
    }


def _scenario_run(
    study: Study, name: str, values: dict[str, Any], replicate: int, choice: BestSettings
) -> StudyRun:
    search, recipes = study.scenarios[name].tuned_by, {}
    for method in values["methods"]:
        recipe = values.get("recipes", {}).get(method, {})
        tuned = choice.get((search, method), {}) if search is not None else {}
        if recipe or tuned or method in values.get("recipes", {}):
            recipes[method] = {**recipe, **tuned}
    chosen = {**values, "replicate": replicate, "recipes": recipes}
    settings = with_dataset_hash(build_settings(chosen, where=f"scenario {name}"))
    return StudyRun(f"{name}-{replicate}", settings, _ALL_STAGES)


def _search_run(study: Study, search: str, method: str) -> StudyRun:
    where = f"search {search}, method {method}"
    values = _values(study, study.searches[search].settings, where=where)
    own = values.get("recipes", {}).get(method, {})
    base = {} if "base" in own or "title" in own else {"base": method}
    points = grid_points(study, search, method)
    recipes = {name: {**base, **own, **point, "title": name} for name, point in points.items()}
    chosen = {**values, "methods": list(recipes), "recipes": recipes, "eval_split": "tuning"}
    settings = with_dataset_hash(build_settings(chosen, where=where))
    return StudyRun(f"search-{search}-{method}", settings, _SEARCH_STAGES)


def _searched_methods(study: Study, search: str) -> list[str]:
    """Return the methods of a search's scenarios that optimize images."""
    methods: dict[str, None] = {}
    for scenario in study.scenarios.values():
        if scenario.tuned_by == search:
            values = _values(study, scenario.settings, where=f"search {search}")
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
    """Return the study's settings with others applied, those of the methods checked."""
    values = merge(merge(read_preset(study.preset), study.settings), settings)
    known = {name: value for name, value in values.items() if name in _Methods.model_fields}
    return {**values, "methods": list(_Methods.parse(known, where=where).methods)}


@dataclass(frozen=True)
class StudyFolder:
    """A study and the folder of its runs, read once; `reload` reads it again.

    Attributes:
        path: The folder; each run is a folder in it.
        study: The study.
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
        folder._check_same_study()
        return folder

    @cached_property
    def searches(self) -> dict[tuple[str, str], StudyRun]:
        """The runs of the searches, by search and method."""
        return search_runs(self.study)

    @cached_property
    def scenarios(self) -> dict[tuple[str, int], StudyRun]:
        """The runs of the scenarios, by scenario and replicate, with the searches' results."""
        return scenario_runs(self.study, self.choice)

    @cached_property
    def finished(self) -> dict[tuple[str, int], StudyRun]:
        """Those of the scenarios' runs that are done."""
        return {key: each for key, each in self.scenarios.items() if self.is_done(each)}

    @cached_property
    def choice(self) -> BestSettings:
        """Results of the finished searches: the best mean accuracy, ties to the first."""
        chosen: BestSettings = {}
        for (search, method), each in self.searches.items():
            if self.is_done(each):
                scores = self.search_table(search, method)
                values = grid_points(self.study, search, method)
                chosen[search, method] = values[max(values, key=lambda name: scores[name])]
        return chosen

    def search_table(self, search: str, method: str) -> dict[str, float]:
        """Return the mean accuracy of each grid point of a finished search, in [0, 1]."""
        students = student_table(self.run(self.searches[search, method]))
        return {str(k): float(v) for k, v in students.groupby("method")["last"].mean().items()}

    def reload(self) -> StudyFolder:
        """Return the folder as it is now."""
        return StudyFolder(self.path, self.study, self.source)

    def run(self, study_run: StudyRun) -> Run:
        """Return the run in its folder."""
        return Run(self.path / study_run.name, study_run.settings)

    def is_done(self, study_run: StudyRun) -> bool:
        """Return whether every unit of a run has its files; they are not hashed."""
        run = self.run(study_run)
        if not (run.path / "config.yaml").is_file():
            return False
        return not any(
            pipeline.plan(run, stage, verify_hashes=False).missing for stage in study_run.stages
        )

    def record(self) -> None:
        """Write the study into the folder."""
        fileio.write_json(self.path / _RECORD, self.study.plain())

    def _check_same_study(self) -> None:
        """Check that the folder holds nothing but results of this study.

        Titles may change, replicates and scenarios may be added, and scenarios may be left out.
        """
        if (self.path / "config.yaml").exists():
            raise UsageError(f"{self.path} is a run; give the study another name")
        found = fileio.read_record(self.path / _RECORD)
        if not found:
            return
        old, new = _fingerprint_parts(found), _fingerprint_parts(self.study.plain())
        differing = [part for part in new if part in old and old[part] != new[part]]
        if differing:
            raise UsageError(
                f"{self.path} holds another study ({', '.join(differing)} differ); give this one "
                "another name (--name, or `name` in the notebook), or delete that folder"
            )


def _fingerprint_parts(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the values that decide a study's results, by name."""
    parts = {name: plain.get(name) for name in ("preset", "settings", "searches")}
    for name, scenario in plain.get("scenarios", {}).items():
        parts[f"scenarios.{name}"] = {k: v for k, v in scenario.items() if k != "title"}
    return parts


def execute_study(folder: StudyFolder, *, workers: int, log: Log) -> None:
    """Do what is left of a study. Call it again after any interruption.

    Networks are trained first, once for all runs that share them; then come the searches, then
    the scenarios with the searches' results.

    Args:
        folder: The study.
        workers: Runs in parallel; each has one CPU thread, so that results do not depend on it.
        log: Called with a line per finished run.

    Raises:
        PrismError: A run failed. Finished units of all runs are kept.
    """
    check_study(folder)
    searches, scenarios = list(folder.searches.values()), list(folder.scenarios.values())
    folder.record()
    _execute_runs(folder, "squeeze", _squeeze_runs([*searches, *scenarios]), workers, log)
    _execute_runs(folder, "search", searches, workers, log)
    folder = folder.reload()
    scenarios = list(folder.scenarios.values())
    for each in scenarios:
        folder.run(each).check_settings()
    _execute_runs(folder, "scenario", scenarios, workers, log)


def check_study(folder: StudyFolder) -> None:
    """Check, before any work, that every run of a study can work.

    Raises:
        UsageError: The first problem, with the name of its run.
    """
    for each in folder.searches.values():
        folder.run(each).check_settings()
    for each in [*folder.searches.values(), *folder.scenarios.values()]:
        try:
            preflight(each.settings, folder.run(each))
        except UsageError as error:
            raise UsageError(f"run {each.name}: {error}") from None


def default_workers() -> int:
    """Return the default number of parallel runs: one per core, at most 8."""
    return min(8, os.cpu_count() or 1)


def plan_table(folder: StudyFolder, workers: int) -> pd.DataFrame:
    """Return the number of runs of each part of a study, those done, and the time left.

    The time is estimated from the seconds of finished runs by their optimization steps.
    """
    rows = {}
    for name, runs in (("search", folder.searches), ("scenarios", folder.scenarios)):
        done = [each for each in runs.values() if folder.is_done(each)]
        left = sum(_cost(each) for each in runs.values() if each not in done)
        minutes = "not measured"
        if done:
            rate = sum(_seconds(folder, each) for each in done) / sum(map(_cost, done))
            minutes = f"{left * rate / workers / 60:.0f} min"
        rows[name] = {"runs": len(runs), "done": len(done), "time left": minutes}
    return pd.DataFrame.from_dict(rows, orient="index")


def _seconds(folder: StudyFolder, study_run: StudyRun) -> float:
    """Return the seconds of a finished run's units after the squeeze."""
    run = folder.run(study_run)
    units = [u for stage in study_run.stages[1:] for u in pipeline.stage_units(run, stage)]
    return sum(run.units.record(unit)["seconds"] for unit in units)


def _execute_run(folder: Path, study_run: StudyRun) -> float:
    """Execute the stages of one run, in a worker process; return the seconds."""
    begin = time.monotonic()
    run = Run.create(folder / study_run.name, study_run.settings)
    run.write_classes(open_dataset(run.settings).class_records())
    for stage in study_run.stages:
        pipeline.execute(run, stage)
    return time.monotonic() - begin


def _execute_runs(
    folder: StudyFolder, title: str, runs: Sequence[StudyRun], workers: int, log: Log
) -> None:
    """Execute those of some runs that are not done, the longest first."""
    left = [each for each in runs if not folder.is_done(each)]
    done = len(runs) - len(left)
    if done:
        log(f"{title:<9} {done} of {len(runs)} done before")
    longest_first = sorted(left, key=_cost, reverse=True)
    execute = partial(_execute_run, folder.path)
    for each, seconds in run_parallel(execute, longest_first, workers=workers):
        done += 1
        log(f"{title:<9} {done:>3} of {len(runs)}  {each.name}, {seconds:.0f} s")


def _squeeze_runs(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """Return one run per distinct set of networks, with the squeeze alone.

    Other runs copy networks that a run in the same folder has trained in the same way.
    """
    distinct = {
        short_hash([unit.fingerprint for unit in network_units(each.settings)]): each
        for each in reversed(runs)
    }
    return [StudyRun(each.name, each.settings, ("squeeze",)) for each in distinct.values()]


def _cost(study_run: StudyRun) -> float:
    """Return the optimization steps of a run, by which the time of runs is compared."""
    settings = study_run.settings
    recipes = map(settings.recipe_of, settings.methods)
    steps = sum(recipe.iterations for recipe in recipes if recipe.image_source == "optimized")
    return max(1, steps) * settings.ipc
