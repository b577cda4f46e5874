"""Studies: methods x scenarios x replicates, each a run, after searches for settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from prism_nb.core import fileio
from prism_nb.core.config import (
    build_settings,
    merge,
    only_methods,
    read_preset,
    resolve_references,
)
from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.paths import runs_folder
from prism_nb.core.presets import find_file, studies
from prism_nb.core.run import Run, check_name
from prism_nb.core.settings import FOLDER_NAME, TUNABLE, Settings
from prism_nb.core.text import format_duration
from prism_nb.core.unit_plan import network_units
from prism_nb.core.yaml_io import StrictModel, read_mapping
from prism_nb.execution import pipeline
from prism_nb.execution.process_pool import run_parallel

if TYPE_CHECKING:
    import pandas as pd

# Modules that import torch or pandas are imported once they are needed, as in `open_run`.

Value = bool | int | float | str
Name = Annotated[str, Field(pattern=f"^{FOLDER_NAME.pattern}$")]
BestSettings = dict[tuple[str, str], dict[str, Value]]  # (search, method) -> settings

# A search needs the students' accuracies alone.
_SEARCH_STAGES = ("squeeze", "synthesis", "relabel", "evaluation")
_ALL_STAGES = ("squeeze", "synthesis", "diversity", "relabel", "evaluation")
_RECORD = "study.json"


class Search(StrictModel):
    """A grid search that every method of its scenarios gets alike, controls in students' settings.

    It scores on a part of the training images (`eval_split: tuning`), never on the test images.
    """

    settings: dict[str, Any] = Field({}, description="settings of the search's runs")
    grid: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(
        min_length=1,
        description="values of recipe settings and of those that `tuned_students` takes, all "
        "combinations",
    )


class Scenario(StrictModel):
    """One setting in which the methods are compared."""

    title: str = Field(description="name in figures")
    settings: dict[str, Any] = Field({}, description="settings that differ from the study's")
    tuned_by: str | None = Field(None, description="the search whose winners it uses")
    replicates: int | None = Field(
        None, ge=1, le=1000, description="repetitions, where they are not the study's"
    )


class Study(StrictModel):
    """Methods, scenarios and replicates."""

    title: str = Field(description="heading of the page")
    question: str = Field("", description="the question of the study, for the page")
    preset: str = Field(description="the preset that every run starts from")
    settings: dict[str, Any] = Field({}, description="settings of every run")
    searches: dict[Name, Search] = Field({}, description="searches by name")
    scenarios: dict[Name, Scenario] = Field(min_length=1, description="scenarios by name")
    replicates: int = Field(3, ge=1, le=1000, description="repetitions of each scenario")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse searches that do not exist, and settings that would be ignored silently."""
        places = {"settings": (self.settings, ["replicate"])}
        for name, scenario in self.scenarios.items():
            if scenario.tuned_by not in {None, *self.searches}:
                raise ValueError(
                    f"scenarios.{name}.tuned_by: {scenario.tuned_by!r} is no search; "
                    f"{suggest(scenario.tuned_by or '', self.searches)}"
                )
            ignored = ["replicate", "recipes"] if scenario.tuned_by else ["replicate"]
            places[f"scenarios.{name}.settings"] = (scenario.settings, ignored)
        for name, search in self.searches.items():
            ignored = ["replicate", "eval_split", "methods"]
            places[f"searches.{name}.settings"] = (search.settings, ignored)
        for place, (settings, ignored) in places.items():
            for name in ignored:
                if name in settings:
                    raise ValueError(
                        f"{place}: {name} would be ignored there; leave it out, or set it for the "
                        "whole study"
                    )
        return self


def load_study(study: str) -> Study:
    """Read a study by its name, or from a YAML file.

    Raises:
        UsageError: No such study, or anything unknown, mistyped or contradictory in it.
    """
    path = find_file(studies(), study)
    where, folder = f"study {path}", path.parent
    values = Study.parse(read_mapping(path, where=where), where=where).plain()
    if Path(values["preset"]).suffix in {".yaml", ".yml"}:
        values["preset"] = str(folder / values["preset"])
    for part in (values, *values["scenarios"].values(), *values["searches"].values()):
        part["settings"] = resolve_references(part["settings"], folder)
    return Study.parse(values, where=where)


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
    return {
        (name, method): _search_run(study, name, method)
        for name in study.searches
        for method in _searched_methods(study, name)
    }


def grid_points(study: Study, search: str, method: str) -> dict[str, dict[str, Value]]:
    """Return the combinations of a search's values, by the name of the method with them.

    Methods that do not optimize images have those of students' settings alone.
    """
    grid = study.searches[search].grid
    settings = _unsearched_settings(study, search, method)
    if settings.recipe_of(method).image_source != "optimized":
        grid = {name: values for name, values in grid.items() if name in TUNABLE}
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {f"{method}-{index}": values for index, values in enumerate(combinations)}


def scenario_runs(study: Study, choice: BestSettings) -> dict[tuple[str, int], StudyRun]:
    """Return the runs of all scenarios, by scenario and replicate.

    `choice` has the results of the searches; other methods use their recipe unchanged.
    """
    shared = {name: _scenario_settings(study, name) for name in study.scenarios}
    methods = {method for settings in shared.values() for method in settings.methods}
    for method in study.settings.get("recipes", {}):
        if method not in methods:
            raise UsageError(
                f"settings.recipes: no scenario runs {method!r}; {suggest(method, methods)}"
            )
    runs = {}
    counts = {name: each.replicates or study.replicates for name, each in study.scenarios.items()}
    for replicate in range(max(counts.values())):
        for name, settings in shared.items():
            if replicate >= counts[name]:
                continue
            search = study.scenarios[name].tuned_by or ""
            tuned = {m: choice[search, m] for m in settings.methods if (search, m) in choice}
            own = {**settings.plain(), "replicate": replicate}
            for method, found in tuned.items():
                own = merge(own, {p: {method: v} for p, v in _by_setting(found).items()})
            own_settings = build_settings(own, where=f"scenario {name}")
            runs[name, replicate] = StudyRun(f"{name}-{replicate}", own_settings, _ALL_STAGES)
    return runs


def _scenario_settings(study: Study, name: str) -> Settings:
    return _settings(study, study.scenarios[name].settings, where=f"scenario {name}")


def _searched_methods(study: Study, search: str) -> list[str]:
    """Return the methods of a search's scenarios for which its grid has settings."""
    for_all = any(name in TUNABLE for name in study.searches[search].grid)
    methods: dict[str, None] = {}
    for name, scenario in study.scenarios.items():
        if scenario.tuned_by == search:
            settings = _scenario_settings(study, name)
            for method in settings.methods:
                if for_all or settings.recipe_of(method).image_source == "optimized":
                    methods[method] = None
    return list(methods)


def _unsearched_settings(study: Study, search: str, method: str) -> Settings:
    """Return the settings of a search's run, with the method itself in place of its copies."""
    changes = {**study.searches[search].settings, "methods": [method]}
    return _settings(study, changes, where=f"search {search}, method {method}")


def _by_setting(values: dict[str, Value]) -> dict[str, dict[str, Value]]:
    """Return a combination of a search's values by the setting of a run that takes them."""
    parts: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        place = "tuned_students" if name in TUNABLE else "recipes"
        parts.setdefault(place, {})[name] = value
    return parts


def _search_run(study: Study, search: str, method: str) -> StudyRun:
    settings = _unsearched_settings(study, search, method)
    own = settings.recipes.get(method, {})
    base = {} if "base" in own or "title" in own else {"base": method}
    points = grid_points(study, search, method)
    searched: dict[str, Any] = {
        "methods": list(points),
        "recipes": {name: {**base, **own, "title": name} for name in points},
        "tuned_students": dict.fromkeys(points, settings.tuned_students.get(method, {})),
        "eval_split": "tuning",
    }
    for name, point in points.items():
        searched = merge(searched, {p: {name: v} for p, v in _by_setting(point).items()})
    where = f"search {search}, method {method}"
    chosen = build_settings({**settings.plain(), **searched}, where=where)
    return StudyRun(f"search-{search}-{method}", chosen, _SEARCH_STAGES)


def _settings(study: Study, changes: dict[str, Any], *, where: str) -> Settings:
    """Return the study's settings with others applied, without those of methods not run."""
    values = merge(merge(read_preset(study.preset), study.settings), changes)
    if isinstance(values.get("methods"), list):
        values = only_methods(values, values["methods"])
    settings = build_settings(values, where=where)
    if not settings.students:
        raise UsageError(f"{where}: a study compares accuracies, so `students` may not be empty")
    from prism_nb.data.registry import with_dataset_hash

    return with_dataset_hash(settings)


@dataclass(frozen=True)
class StudyFolder:
    """A study and the folder of its runs, read once; `reload` reads it again."""

    path: Path  # the folder; each run is a folder in it
    study: Study
    source: str = ""  # name or file that the study was read from

    @classmethod
    def open(
        cls, study: str, *, runs_dir: str | Path | None = None, name: str | None = None
    ) -> StudyFolder:
        """Open a study's folder, or begin it.

        `study` is a name or a file, `name` that of the folder in `runs_dir`; the study's own where
        None.
        """
        loaded, name = load_study(study), name or Path(study).stem
        check_name(name)
        runs = runs_folder(runs_dir)
        if (runs / name / "config.yaml").exists():
            raise UsageError(f"{runs / name} is a run; give the study another name")
        return cls(runs / name, loaded, study)

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
        from prism_nb.evaluation.stage import student_table

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
        return all(
            run.units.is_done(unit, verify_hashes=False)
            for stage in study_run.stages
            for unit in pipeline.stage_units(run, stage)
        )

    def record(self) -> None:
        """Write the study into the folder."""
        fileio.write_json(self.path / _RECORD, self.study.plain())


def execute_study(
    folder: StudyFolder, *, workers: int | None = None, log: Callable[[str], None]
) -> None:
    """Do what is left of a study. Call it again after any interruption.

    Networks are trained first, once for all runs that share them; then come the searches, then the
    scenarios with the searches' results. There are `workers` runs in parallel, one per core where
    None, at most 8; each has one CPU thread, so that results do not depend on it. `log` is called
    with a line per finished run.

    Raises:
        PrismError: A run failed. Finished units of all runs are kept.
    """
    check_study(folder)
    workers = workers or _default_workers()
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
    """Check, before any work, that every run of a study can work."""
    from prism_nb.execution.preflight import preflight

    for each in folder.searches.values():
        folder.run(each).check_settings()
    for each in [*folder.searches.values(), *folder.scenarios.values()]:
        try:
            preflight(each.settings, folder.run(each))
        except UsageError as error:
            raise UsageError(f"run {each.name}: {error}") from None


def _default_workers() -> int:
    from prism_nb.core.device import usable_cores

    return min(8, usable_cores())


def plan_values(folder: StudyFolder, workers: int | None = None) -> list[dict[str, Any]]:
    """Return part, number of runs, those done, and seconds left of each part of a study.

    The seconds are estimated from those of finished runs by their optimization steps; None where
    no run is finished.
    """
    workers, parts = workers or _default_workers(), []
    for name, runs in (("search", folder.searches), ("scenarios", folder.scenarios)):
        done = [each for each in runs.values() if folder.is_done(each)]
        left = sum(_cost(each) for each in runs.values() if each not in done)
        seconds = None
        if done:
            rate = sum(_seconds(folder, each) for each in done) / sum(map(_cost, done))
            seconds = left * rate / workers
        parts.append({"part": name, "runs": len(runs), "done": len(done), "seconds_left": seconds})
    return parts


def plan_table(parts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return what `plan_values` gives as a table, with the time left in words."""
    import pandas as pd

    left = [format_duration(part["seconds_left"]) for part in parts]
    table = pd.DataFrame(parts).drop(columns="seconds_left").assign(**{"time left": left})
    return table.set_index("part")


def _seconds(folder: StudyFolder, study_run: StudyRun) -> float:
    """Return the seconds of a finished run's units after the squeeze."""
    run = folder.run(study_run)
    units = [u for stage in study_run.stages[1:] for u in pipeline.stage_units(run, stage)]
    return sum(run.units.record(unit)["seconds"] for unit in units)


def _execute_run(folder: Path, study_run: StudyRun) -> float:
    """Execute the stages of one run, in a worker process; return the seconds."""
    begin = time.monotonic()
    run = Run.create(folder / study_run.name, study_run.settings)
    from prism_nb.data.registry import open_dataset

    run.write_classes(open_dataset(run.settings).class_records())
    for stage in study_run.stages:
        pipeline.execute(run, stage)
    return time.monotonic() - begin


def _execute_runs(
    folder: StudyFolder,
    title: str,
    runs: Sequence[StudyRun],
    workers: int,
    log: Callable[[str], None],
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
        tuple(unit.fingerprint for unit in network_units(each.settings)): each
        for each in reversed(runs)
    }
    return [StudyRun(each.name, each.settings, ("squeeze",)) for each in distinct.values()]


def _cost(study_run: StudyRun) -> float:
    """Return the optimization steps of a run, by which the time of runs is compared."""
    settings = study_run.settings
    recipes = map(settings.recipe_of, settings.methods)
    steps = sum(recipe.iterations for recipe in recipes if recipe.image_source == "optimized")
    return max(1, steps) * settings.ipc
