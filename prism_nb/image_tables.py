"""Images one by one as tables: what is known of each, and what can be found out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from prism_nb.artifacts.images import load_some
from prism_nb.data import open_dataset
from prism_nb.diversity.judged import judge
from prism_nb.pipeline import class_count
from prism_nb.plans.diversity import REFERENCE, diversity_unit
from prism_nb.plans.synthesis import batch_of, method_units
from prism_nb.run import Run
from prism_nb.units import Unit

COLUMNS = ["class", "slot", "made", "unit", "teachers", "logit loss", "BN loss"]
JUDGED = ["own loss", "agree", "apart"]


def image_table(run: Run, method: str, classes: Sequence[int]) -> pd.DataFrame:
    """Return what the run's records say of a method's images, class by class and slot by slot.

    Columns: `class`, `slot`, `made` (whether the image is there), `unit`, `teachers` (the BN
    teachers of the unit), and the unit's last `logit loss` and `BN loss` (mean over its networks):
    losses are recorded for the images of a unit together. NaN where a unit has none.

    Args:
        run: The run.
        method: A method, or `plans.diversity.REFERENCE` for real images.
        classes: The classes.
    """
    if method == REFERENCE:
        slots = range(run.settings.ipc)
        rows = [
            (c, slot, True, "", "", float("nan"), float("nan")) for c in classes for slot in slots
        ]
        return pd.DataFrame(rows, columns=COLUMNS)
    wanted, rows = set(classes), []
    for unit in method_units(run, method, class_count(run)):
        mine = [member for member in batch_of(unit).members() if member[0] in wanted]
        if mine:
            known = _known(run, unit)
            rows += [(*member, *known) for member in mine]
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = {c: place for place, c in enumerate(classes)}
    return table.sort_values(
        ["class", "slot"],
        key=lambda column: column.map(order) if column.name == "class" else column,
    ).reset_index(drop=True)


def with_distance(table: pd.DataFrame, run: Run, method: str, network: str) -> pd.DataFrame:
    """Add `distance`: to the nearest training image of the class, in [0, 2], as recorded.

    NaN where notebook 03 has not measured it.
    """
    marker = run.marker(diversity_unit(run, method, class_count(run)))
    spaces = marker["record"]["spaces"] if marker else {}
    if network not in spaces:
        return table.assign(distance=float("nan"))
    every, ipc = spaces[network]["nearest_real"]["distance"], run.settings.ipc
    found = [every[c * ipc + slot] for c, slot in _members(table)]
    return table.assign(distance=pd.Series(found, dtype=float))


def with_judgement(table: pd.DataFrame, run: Run, method: str) -> pd.DataFrame:
    """Add what the teachers make of each image that is there: `own loss`, `agree`, `apart`.

    See `diversity.judged.Judged`; `agree` in percent. They are found out now, and kept in memory.

    Raises:
        PrismError: An image cannot be read, or a teacher is not trained.
    """
    made = table[table["made"]]
    if not len(made):
        return table.assign(**dict.fromkeys(JUDGED, float("nan")))
    pixels = load_some(run, method, open_dataset(run.settings), list(_members(made)))
    found = judge(run, pixels, torch.tensor(made["class"].to_list()))
    columns = {"own loss": found.loss, "agree": 100 * found.agree, "apart": found.apart}
    judged = pd.DataFrame({n: v.numpy() for n, v in columns.items()}, index=made.index)
    return table.join(judged)


def _members(table: pd.DataFrame) -> Iterator[tuple[int, int]]:
    return zip(table["class"].to_list(), table["slot"].to_list(), strict=True)


def _known(run: Run, unit: Unit) -> tuple[bool, str, str, float, float]:
    marker, nothing = run.marker(unit), float("nan")
    if marker is None:
        return False, unit.name, "", nothing, nothing
    record = marker["record"]
    losses, draws = record.get("losses", {}), record.get("draws", {})
    teams = dict.fromkeys(name for team in draws.get("teams", []) for name in team)
    logit, bn = (_mean(losses, term) for term in ("logit/", "bn/"))
    return True, unit.name, ", ".join(teams), logit, bn


def _mean(losses: dict[str, float], term: str) -> float:
    values = [value for name, value in losses.items() if name.startswith(term)]
    return sum(values) / len(values) if values else float("nan")
