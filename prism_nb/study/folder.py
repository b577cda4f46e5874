"""A study's folder: its runs, what the searches chose, and how far everything is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prism_nb import files, pipeline, tables
from prism_nb.config import default_runs_dir
from prism_nb.errors import UsageError
from prism_nb.run import Run, check_name
from prism_nb.study.cells import Cell, Choice, scenario_cells, search_cells, variants
from prism_nb.study.spec import Study, load_study

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
    def searches(self) -> dict[tuple[str, str], Cell]:
        """The runs of the searches, by search and method."""
        return search_cells(self.study)

    @cached_property
    def scenarios(self) -> dict[tuple[str, int], Cell]:
        """The runs of the scenarios, by scenario and replicate, with what is chosen."""
        return scenario_cells(self.study, self.choice)

    @cached_property
    def finished(self) -> dict[tuple[str, int], Cell]:
        """Those of the scenarios' runs that are done."""
        return {key: cell for key, cell in self.scenarios.items() if self.is_done(cell)}

    def fresh(self) -> StudyFolder:
        """Return the folder as it is now."""
        return StudyFolder(self.path, self.study, self.source)

    def run(self, cell: Cell) -> Run:
        """Return the run of a cell."""
        return Run(self.path / cell.name, cell.settings)

    def is_done(self, cell: Cell) -> bool:
        """Return whether every unit of a cell is there; files are looked for, not hashed."""
        run = self.run(cell)
        if not (run.path / "config.yaml").is_file():
            return False
        return not any(pipeline.plan(run, stage, deep=False).missing for stage in cell.stages)

    def search_table(self, search: str, method: str) -> dict[str, float]:
        """Return what each variant's students reached in a finished search, in [0, 1]."""
        students = tables.student_table(self.run(self.searches[search, method]))
        return {str(k): float(v) for k, v in students.groupby("method")["last"].mean().items()}

    @cached_property
    def choice(self) -> Choice:
        """What the finished searches chose: the best mean accuracy, ties to the first."""
        chosen: Choice = {}
        for (search, method), cell in self.searches.items():
            if self.is_done(cell):
                scores = self.search_table(search, method)
                values = variants(self.study, search, method)
                chosen[search, method] = values[max(values, key=lambda name: scores[name])]
        return chosen

    def record(self) -> None:
        """Write down which study this folder holds."""
        files.write_json(self.path / _RECORD, self.study.plain())

    def refuse_mixing(self) -> None:
        """Check that the folder holds nothing but results of this study.

        Titles may change, more replicates and scenarios may join, and scenarios may be left out.

        Raises:
            UsageError: It holds a run, or results of a study that differs; what differs is named.
        """
        if (self.path / "config.yaml").exists():
            raise UsageError(f"{self.path} is a run; give the study another name")
        found = files.read_record(self.path / _RECORD)
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
