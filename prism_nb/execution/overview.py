"""What is known of a run, from its files, as plain values: its state, its results, a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit
from prism_nb.execution import pipeline

# Nothing here imports torch or pandas, so that the command answers in less than a second.

_ENDS = {"complete": "partial", "stopped": "stopped", "failed": "failed"}
_DATA = {"dataset", "dataset_hash", "image_size", "eval_split", "class_list"}


def run_state(run: Run) -> dict[str, Any]:
    """Return the state of a run and of each stage.

    `state` is `finished`, `running` (a process is at work), `failed`, `stopped` (by Ctrl-C),
    `killed` (its process ended without a word), `partial` (some stages are finished) or `new`.
    """
    found = [pipeline.state(run, stage, verify_hashes=False) for stage in pipeline.STAGES]
    events = {stage: run.events.last(stage) for stage in pipeline.STAGES}
    last: dict[str, Any] = max(events.values(), key=lambda event: event.get("time", 0))
    if any(run.locks.driver(stage) for stage in pipeline.STAGES):
        state = "running"
    elif not any(each.missing for each in found):
        state = "finished"
    else:
        state = _ENDS.get(last["event"], "killed") if last else "new"
    return {
        "run": run.name,
        "path": str(run.path),
        "state": state,
        "methods": list(run.settings.methods),
        "done": sum(each.counts["done"] for each in found),
        "units": sum(len(each.states) for each in found),
        "stages": [
            {
                "stage": each.stage,
                "units": len(each.states),
                "states": dict(sorted(each.counts.items())),
                "seconds_left": each.seconds_left,
                "last_event": events[each.stage],
            }
            for each in found
        ],
    }


def run_files(run: Run) -> dict[str, Any]:
    """Return the bytes of a run's files, and when one was `changed` last, in s since 1970."""
    found = [path.stat() for path in run.path.rglob("*") if path.is_file()]
    changed = max((each.st_mtime for each in found), default=0.0)
    return {"bytes": sum(each.st_size for each in found), "changed": changed}


def run_results(run: Run) -> dict[str, Any]:
    """Return what a run has found so far, a row per method and evaluation variant.

    A row has the `scores` of finished students by their name (accuracies in %, over `seeds`
    students) and, once measured, intra-class `cosine` and images `recognised` in %, mean over
    networks; None before.
    """
    settings = run.settings
    scores = _scores(run)
    keys = [(method, "protocol") for method in settings.methods]
    keys += [key for key in scores if key not in keys]
    return {
        **{key: value for key, value in run_state(run).items() if key in {"run", "path", "state"}},
        "dataset": settings.dataset,
        "classes": pipeline.class_count(run),
        "ipc": settings.ipc,
        "protocol": settings.protocol,
        "students": list(settings.students),
        "rows": [
            {
                "method": method,
                "variant": variant,
                "title": _title(run, method, variant),
                "scores": scores.get((method, variant), {}),
                **_images(run, method),
            }
            for method, variant in keys
        ],
    }


def _scores(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the scores of finished students, by method and variant, then by student."""
    records = defaultdict[tuple[str, str, str], list[dict[str, Any]]](list)
    for unit in pipeline.stage_units(run, "evaluation"):
        marker = run.units.marker(unit)
        if marker is not None:
            key = (unit.params["method"], unit.params["variant"], unit.params["student"])
            records[key].append(marker["record"])
    found = defaultdict[tuple[str, str], dict[str, Any]](dict)
    for (method, variant, student), each in records.items():
        found[method, variant][student] = {
            "top1": 100 * mean(record["last"] for record in each),
            "std": 100 * stdev(record["last"] for record in each) if len(each) > 1 else None,
            "top5": 100 * mean(record["top5"] for record in each),
            "seeds": len(each),
        }
    return found


def _title(run: Run, method: str, variant: str) -> str:
    title = "All real images" if method == REFERENCE else run.settings.recipe_of(method).title
    return title if variant == "protocol" else f"{title}, {variant}"


def _images(run: Run, method: str) -> dict[str, float | None]:
    """Return what a method's images are like, mean over the networks that measured them."""
    marker = None
    if method != REFERENCE:
        marker = run.units.marker(diversity_unit(run, method, pipeline.class_count(run)))
    spaces = marker["record"]["spaces"].values() if marker else ()
    found = dict[str, float | None]()
    for name, scale in (("cosine", 1), ("recognised", 100)):
        values = [space["metrics"][name]["mean"] for space in spaces]
        known = [scale * value for value in values if value is not None]
        found[name] = mean(known) if known else None
    return found


def compare_runs(*runs: Run) -> dict[str, Any]:
    """Return the settings of two runs that differ, and their scores side by side.

    `rows` has one per method, variant and student, with the `difference` second minus first in
    points, None where one lacks it; `notes` says what stands against a comparison.
    """
    first, second = (_flat(run.settings.plain()) for run in runs)
    pairs = {name: [first.get(name), second.get(name)] for name in first | second}
    settings = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    scores = [
        {(row["title"], student): each for row in rows for student, each in row["scores"].items()}
        for rows in (run_results(run)["rows"] for run in runs)
    ]
    rows, notes = [], []
    for title, student in dict.fromkeys(key for each in scores for key in each):
        pair = [each.get((title, student)) for each in scores]
        known = [score["top1"] for score in pair if score is not None]
        difference = known[1] - known[0] if len(known) == len(pair) else None
        rows.append({"title": title, "student": student, "scores": pair, "difference": difference})
    for run, each in zip(runs, scores, strict=True):
        if not each:
            notes.append(f"run {run.name} has no finished students")
    if all(scores) and all(row["difference"] is None for row in rows):
        notes.append("the runs have no method and student in common")
    data = [name for name in settings if name in _DATA]
    if data or runs[0].read_classes() != runs[1].read_classes():
        what = ", ".join(data) or "the class order"
        notes.append(f"the runs are on different data ({what}): their accuracies do not compare")
    return {"runs": [run.name for run in runs], "settings": settings, "rows": rows, "notes": notes}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by their path, e.g. `recipe.lr`."""
    found = dict[str, Any]()
    for name, value in values.items():
        path = f"{prefix}{name}"
        found |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def plan_values(run: Run, plans: Sequence[pipeline.StagePlan], cache_bytes: int) -> dict[str, Any]:
    """Return the plans of a run's stages as plain values."""
    names = ("missing", "seconds_left", "images", "disk_bytes", "memory_bytes", "other_cores")
    stages = [
        {
            "stage": each.stage,
            "units": len(each.states),
            "taken_over": len(each.reusable),
            **{name: getattr(each, name) for name in names},
        }
        for each in plans
    ]
    return {"run": run.name, "path": str(run.path), "cache_bytes": cache_bytes, "stages": stages}
