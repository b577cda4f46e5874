"""Diagnostics against scipy and literal formulas, from records written by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prism_nb.core.recipe import load_recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of
from prism_nb.execution.pipeline import stage_units
from prism_nb.viz import diagnostics
from prism_nb.viz.results import RUN_RESULTS
from tests.helpers.evaluated_run import evaluated_run


def synthesized_run(folder: Path, **changes: Any) -> Run:
    """Return an evaluated run whose units' own loss is the number of their images."""
    run = evaluated_run(folder, batch_size=3, **changes)
    for unit in stage_units(run, "synthesis"):
        count = len(batch_of(unit).members())
        losses = {"logit/a": count, "bn/a": 0.0}
        run.units.finish(
            unit, paths=[], record={"losses": losses, "bn_scales": {}, "images": count}
        )
    return run


# --- Own loss and test loss ---


def test_the_own_loss_is_the_objective_of_the_last_steps() -> None:
    losses = {"logit/a": 2.0, "logit/b": 4.0, "bn/a": 10.0, "bn/c": 30.0, "tv/images": 7.0}
    recipe = load_recipe("prism", {"r_bn": 0.1, "tv_l1": 0.01})
    found = diagnostics.own_loss(recipe, {"losses": losses, "bn_scales": {"a": 1.0, "c": 0.5}})
    assert found == pytest.approx((2 + 4) / 2 + 0.1 * (1.0 * 10 + 0.5 * 30) / 2 + 0.01 * 7)
    record = {"losses": {"features/a": 0.3}, "bn_scales": {}}
    assert diagnostics.own_loss(load_recipe("cim"), record) == pytest.approx(0.3)


def test_a_sets_losses_are_means_over_images_and_students(tmp_path: Path) -> None:
    run = synthesized_run(tmp_path)
    (row,) = diagnostics.set_losses(run).to_dict("records")
    units = [u for u in stage_units(run, "synthesis") if u.params["method"] == "prism"]
    counts = [run.units.record(unit)["images"] for unit in units]
    assert len(set(counts)) == 2  # batches of at most three of ten classes
    assert row["method"] == "prism"
    assert row["own loss"] == pytest.approx(sum(n * n for n in counts) / sum(counts))
    assert row["test loss"] == pytest.approx((0.20 + 0.16) / 2)


def test_sets_of_one_group_differ_in_optimization_alone(tmp_path: Path) -> None:
    changes = [{}, {"replicate": 1, "recipes": {"prism": {"lr": 9.0}}}, {"ipc": 1}]
    changes += [{"recipes": {"prism": {"r_bn": 9.0}}}, {"seed": 1}]
    runs = [synthesized_run(tmp_path / str(i), **each) for i, each in enumerate(changes)]
    first, *others = (diagnostics.set_losses(run)["group"].item() for run in runs)
    assert [group == first for group in others] == [True, False, False, False]


def test_a_rank_correlation_is_scipys_and_of_few_sets_none() -> None:
    rng = np.random.default_rng(0)
    a, b, one = (
        pd.Series(rng.integers(0, 6, 20)),
        pd.Series(rng.normal(size=20)),
        pd.Series([0] * 20),
    )
    expected = stats.spearmanr(a, b).statistic
    assert diagnostics.rank_correlation(a, b, one) == pytest.approx(expected)
    for groups, needed in ((one, 4), (pd.Series([0, 1] * 10), 5)):
        found = [diagnostics.rank_correlation(b[:n], b[:n], groups[:n]) for n in (3, 4, 5)]
        assert np.isnan(found).tolist() == [n < needed for n in (3, 4, 5)]
    assert np.isnan(diagnostics.rank_correlation(one, b, one))


def test_what_distinguishes_groups_or_methods_plays_no_part() -> None:
    own, test = [1.0, 2, 3, 101, 102, 103], [-1.0, -2, -3, 99, 98, 97]
    sets = pd.DataFrame({"method": "a", "group": list("xxxyyy"), "own loss": own})
    both = [sets.assign(**{"test loss": test}), sets.assign(**{"test loss": own}, method="b")]
    table = diagnostics.dcs_table(pd.concat(both, ignore_index=True)).set_index("method")
    assert table["DCS"].to_list() == pytest.approx([-1, 1])
    assert table[["sets", "groups"]].to_numpy().tolist() == [[6, 2]] * 2


# --- Budgets ---


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"labels": "online"}, [80, 160]),
        ({"label_epochs": 1, "student_epochs": 2, "cycle_labels": True}, [80, 80]),
        ({"labels": "hard", "student_loss": "ce"}, [0, 0]),
    ],
)
def test_images_and_label_passes_are_counted(
    changes: dict[str, Any], passes: list[int], tmp_path: Path
) -> None:
    run = evaluated_run(tmp_path, eval_variants=["protocol"], train_on_real=False, **changes)
    result = RUN_RESULTS["budget"](run)
    row = result.table.set_index("method").loc["prism"]
    assert row[["images seen", "label passes"]].to_list() == [40, passes[-1]]
    assert row[["epoch 1", "epoch 2"]].to_list() == pytest.approx([10, 82])
    drawn = {
        line.xaxis: list(line.x) for line in result.figure.data if line.name == "PRISM, test_resnet"
    }
    assert drawn == {"x": [20, 40]} | ({"x2": passes} if any(passes) else {})


# --- Variance by stage ---


def literal_variances(values: np.ndarray) -> list[float]:
    """Mean squares of a balanced three-level nested design and their differences, term by term."""
    a, b, n = values.shape
    cell, group, pairs = values.mean(2), values.mean((1, 2)), list(product(range(a), range(b)))
    between = sum(b * n * (group[i] - values.mean()) ** 2 for i in range(a)) / (a - 1)
    within = sum(n * (cell[i, j] - group[i]) ** 2 for i, j in pairs) / (a * (b - 1))
    rest = sum((values[i, j, k] - cell[i, j]) ** 2 for i, j in pairs for k in range(n))
    rest /= a * b * (n - 1)
    return [max(0, between - within) / (b * n), max(0, within - rest) / n, rest]


@pytest.mark.parametrize("scales", [(5.0, 2.0, 1.0), (0.0, 0.0, 1.0), (0.0, 3.0, 1.0)])
def test_variances_are_those_of_the_nested_analysis(scales: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=s) for s in ((4, 1, 1), (4, 3, 1), (4, 3, 5))]
    values = sum(scale * part for scale, part in zip(scales, parts, strict=True))
    assert diagnostics.nested_variances(values) == pytest.approx(literal_variances(values))


def test_two_levels_have_the_f_ratio_of_scipy() -> None:
    values = np.random.default_rng(2).normal(size=(1, 6, 4)) + 3 * np.arange(6)[:, None]
    teachers, synthesis, student = diagnostics.nested_variances(values)
    assert np.isnan(teachers)
    ratio = stats.f_oneway(*values[0]).statistic
    assert (4 * synthesis + student) / student == pytest.approx(ratio)
    of_one_seed = diagnostics.nested_variances(values[:, :, :1])
    assert of_one_seed == pytest.approx([np.nan, values[0, :, 0].var(ddof=1), np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("scenario", ["5.00", "0.00", "0.00"]),
        ("replicate", ["0.00", "5.00", "0.00"]),
        ("seed", ["0.00", "0.00", "5.00"]),
    ],
)
def test_stages_are_told_apart_in_a_studys_rows(level: str, expected: list[str]) -> None:
    cells = product(["s", "t"], range(2), range(2))
    table = pd.DataFrame(cells, columns=["scenario", "replicate", "seed"]).assign(student="n")
    sign = np.where(table[level].isin([0, "s"]), 1, -1)
    if level != "scenario":
        sign = np.where(table["scenario"] == "t", -sign, sign)  # levels are nested
    table["last"] = 0.5 + sign * 0.05 / 2**0.5  # two values with a deviation of five points
    row = diagnostics.variance_row(table.sample(frac=1, random_state=0))
    assert list(row.values()) == ["2 × 2 × 2", *expected]
    one = diagnostics.variance_row(table[table["scenario"] == "s"])
    assert (one["seeds"], one["teachers"]) == ("1 × 2 × 2", "not varied")


# --- Architectures ---


def test_tau_is_scipys_over_the_architectures_that_are_known() -> None:
    keys = pd.MultiIndex.from_product([["s", "t"], ["prism"]], names=["scenario", "method"])
    columns = ["a", "b", "c", "d", "label teachers"]
    wide = pd.DataFrame([[3.0, 2, 1, 9, 4], [1, 2, np.nan, 9, 4]], keys, columns=columns)
    table = diagnostics.ranking_table(wide, {"a": 90.0, "b": 70.0, "c": 80.0})
    assert table["method"].to_list() == ["All real images", "prism", "prism"]
    assert table.loc[0, ["a", "b", "c", "label teachers"]].to_list() == [90, 70, 80, 0]
    tau = stats.kendalltau([3, 2, 1], [90, 70, 80]).statistic
    assert table["Kendall's tau"].to_list() == pytest.approx([np.nan, tau, np.nan], nan_ok=True)
    assert not len(diagnostics.ranking_table(wide, {}))


def test_architectures_on_real_images_are_students_or_else_teachers(tmp_path: Path) -> None:
    run = evaluated_run(tmp_path / "a")
    assert diagnostics.real_accuracies(run) == pytest.approx({"test_resnet": 98.0})
    run = evaluated_run(tmp_path / "b", train_on_real=False, students=["test_resnet", "test_vit"])
    sizes = dict.fromkeys(("parameters", "flops", "bn_layers", "bn_channels", "seconds"), 1)
    for unit in stage_units(run, "squeeze"):
        record = {"source": "squeeze", "accuracy": 0.9, "reused_from": None, **sizes}
        run.units.finish(unit, paths=[], record=record)
    assert diagnostics.real_accuracies(run) == pytest.approx({"test_resnet": 90.0})
