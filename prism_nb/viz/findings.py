"""What results show, in sentences: verdicts, failing classes, noise, dominant networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.text import format_first
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.stage import student_table
from prism_nb.viz import tables

LEVEL = 0.05  # of significance, and 1 minus that of intervals
MIN_REPEATS = 3  # seeds or replicates that a verdict and an interval need
HALF = 50.0  # percent of recognised images under which measures of diversity favour noise
_DOMINATES = 0.9  # share of the BN teachers' gradient, or of the draws
_FAILS = 0.5  # accuracy of a class as a share of the mean over all classes


class Finding(NamedTuple):
    """A sentence with its number, and the section of the report that shows it."""

    text: str
    section: str


def stand_out(run: Run) -> list[Finding]:
    """Return what stands out in a finished run, the verdict on the methods first."""
    found = [Finding(verdict_of(run), "accuracy")] if run.settings.students else []
    if run.settings.students:
        found += [Finding(text, "confusions") for text in _failing_classes(run)]
    found += [Finding(text, "fidelity") for text in _unrecognised(run)]
    texts = {"bn_shares": [dominant_networks(run)], "bn_teachers": _one_sided_draws(run)}
    found += [Finding(text, name) for name, each in texts.items() for text in each if text]
    return found


# -- verdicts on accuracies ------------------------------------------------------------------


def chance_level(settings: Settings) -> float:
    """Return the top-1 in percent of guesses that do not depend on the image."""
    return 100 / len(open_dataset(settings).classes)


def chance_limit(settings: Settings) -> float:
    """Return the top-1 in percent that guesses exceed on the held-out images once in forty times.

    Two standard deviations of the binomial distribution above chance.
    """
    chance, images = chance_level(settings), len(open_dataset(settings).labels("val"))
    return chance + 1.96 * (chance * (100 - chance) / max(1, images)) ** 0.5


def verdict(
    accuracies: pd.DataFrame,
    equals: Collection[str],
    settings: Settings,
    titles: Mapping[str, str],
    over: str,
) -> str:
    """Return which method leads, or why none does, and which are below random real images.

    Args:
        accuracies: Top-1 in percent, a row per repeat and a column per method.
        equals: Methods that are not told apart from the one of the best mean.
        settings: Settings of the run that they are of.
        titles: Titles of the methods.
        over: What a repeat is, such as `seeds`.
    """
    means = accuracies.mean().sort_values(ascending=False, kind="stable")
    first, chance = str(means.index[0]), f"chance, {chance_level(settings):.3g} %"
    highest = f"{titles[first]} has the highest mean, {means.iloc[0]:.1f} %"
    if means.iloc[0] <= chance_limit(settings):
        return f"No method is above {chance}: {highest}."
    if len(means) == 1:
        return f"{titles[first]} has {means.iloc[0]:.1f} %, above {chance}."
    if len(accuracies) < MIN_REPEATS:
        count = f"{len(accuracies)} {over if len(accuracies) > 1 else over.removesuffix('s')}"
        sentence = f"{highest}; {count} cannot decide whether it leads"
    elif equals:
        names = ", ".join(titles[m] for m in map(str, means.index) if m in equals)
        sentence = f"{highest}; not told apart from it: {names}"
    else:
        which = ", a control that optimises nothing," if _is_control(settings, first) else ""
        sentence = f"{titles[first]}{which} leads with {means.iloc[0]:.1f} %"
    below = random_sentence(accuracies, tables.random_method(settings), titles, over)
    return f"{sentence}. {below}".strip()


def _is_control(settings: Settings, method: str) -> bool:
    return settings.recipe_of(method).image_source == "initial"


def verdict_of(run: Run) -> str:
    """Return which method leads over the seeds of one synthesis, if any does."""
    accuracies = 100 * student_table(run).pivot_table("last", "seed", "method", sort=False)
    titles = tables.method_titles(run)
    return verdict(accuracies, undecided(accuracies), run.settings, titles, "seeds")


def can_decide(accuracies: pd.DataFrame, settings: Settings) -> bool:
    """Return whether some method is above chance and there are enough repeats for a verdict."""
    above = accuracies.mean().max() > chance_limit(settings)
    return bool(above) and len(accuracies) >= MIN_REPEATS


def undecided(accuracies: pd.DataFrame) -> list[str]:
    """Return the methods that are not told apart from the one of the best mean."""
    best = str(accuracies.mean().idxmax())
    gaps = accuracies.drop(columns=best).rsub(accuracies[best], axis=0)
    return [str(method) for method in gaps.columns[~_told_apart(gaps)]]


def half_interval(values: pd.Series | pd.DataFrame) -> Any:
    """Return half of Student's 95 % interval of the mean of a series, or of each column of a frame.

    NaN for fewer than two rows.
    """
    from scipy import stats  # takes half a second to import

    return stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * values.sem()


def _told_apart(gaps: pd.DataFrame) -> pd.Series:
    """Return of each column whether 0 is outside the 95 % interval (Student's t) of its mean."""
    half = half_interval(gaps)
    return (gaps.mean().abs() > half) & (half > 0)  # without a spread, ties are ordinary


def random_sentence(
    accuracies: pd.DataFrame, control: str, titles: Mapping[str, str], over: str
) -> str:
    """Return which methods stand below random real images, and which are not told apart.

    A method is told apart where 0 is outside the 95 % interval of its differences to the control,
    over the rows of `accuracies` (top-1 in percent, a column per method), which `over` names. Empty
    where the control is not among the columns.
    """
    if control not in accuracies:
        return ""
    means = accuracies.mean()
    gaps = accuracies.drop(columns=control).rsub(accuracies[control], axis=0)
    told = _told_apart(gaps)
    verdicts = {
        f"Below random real images, beyond the 95 % interval over {over}": told & (gaps.mean() > 0),
        f"Not told apart from random real images over {over}": ~told,
    }
    sentences = []
    for text, chosen in verdicts.items():
        names = [f"{titles[str(method)]} {means[method]:.1f}" for method in gaps.columns[chosen]]
        if names:
            sentences.append(f"{text}: {', '.join(names)} against {means[control]:.1f} %.")
    return " ".join(sentences)


# -- classes and images ----------------------------------------------------------------------


def _failing_classes(run: Run) -> Iterator[str]:
    """Yield the classes that fail, by method, with what the worst is taken for."""
    classes, settings = tables.class_accuracy_table(run), run.settings
    for method, title in optimised(run).items():
        mean, worst = classes[method].mean(), classes[method].dropna().sort_values(kind="stable")
        failing = worst[worst < _FAILS * mean]
        if not len(failing) or mean <= chance_limit(settings):
            continue
        matrices = [tables.confusion_matrix(run, method, student) for student in settings.students]
        name = str(failing.index[0])
        mistakes = pd.concat([m.loc[name] for m in matrices], axis=1).mean(axis=1).drop(name)
        others = format_first([f"{other} ({value:.1f} %)" for other, value in failing[1:].items()])
        yield (
            f"{title}: class {name} fails with {failing.iloc[0]:.1f} %, where all classes have "
            f"{mean:.1f} %; {mistakes.max():.1f} % of its images are taken for {mistakes.idxmax()}."
            f"{f' So do {others}.' if others else ''}"
        )


def _unrecognised(run: Run) -> Iterator[str]:
    """Yield the methods of which fewer than half of the images are recognised, and their worst."""
    networks = run.settings.feature_networks_used
    found = [tables.class_metric_table(run, network, "recognised") for network in networks]
    mean, most = 100 * sum(found) / len(found), pd.concat(found).groupby(level=0, sort=False).max()
    real = f", {mean[REFERENCE].mean():.0f} % of real ones" if REFERENCE in mean else ""
    for method, title in optimised(run).items():
        nobody = format_first([str(name) for name, share in most[method].items() if share == 0])
        if mean[method].mean() < HALF or nobody:
            yield (
                f"{title}: {mean[method].mean():.0f} % of the images are recognised by "
                f"{' and '.join(networks)}{real}{f'; none of {nobody}' if nobody else ''}."
            )


def optimised(run: Run) -> dict[str, str]:
    """Return the titles of the methods that are no controls."""
    titles = tables.method_titles(run)
    return {m: titles[m] for m in run.settings.methods if not _is_control(run.settings, m)}


# -- networks --------------------------------------------------------------------------------


def _one_sided_draws(run: Run) -> Iterator[str]:
    """Yield the methods that draw one network nearly always, or one of the pool never."""
    for method, title in optimised(run).items():
        recipe, draws = run.settings.recipe_of(method), tables.drawn_networks(run, method)
        pool = recipe.candidates(run.settings.pool)
        counts = Counter(name for draw in draws for name in draw if name in pool)
        if recipe.selection not in {"pre", "intra"} or len(pool) < 2 or not counts:
            continue
        name, count = counts.most_common(1)[0]
        never = format_first([name for name in pool if name not in counts])
        if never:
            made = f"{len(draws)} draw{'s' * (len(draws) > 1)}"
            yield f"{title} never drew {never}: {made} of its BN teachers in all."
        elif count > _DOMINATES * counts.total():
            yield f"{title}: {name} is {count / counts.total():.0%} of the BN teachers drawn."


def dominant_networks(run: Run) -> str:
    """Return which methods have a network with nearly all of the BN teachers' gradient."""
    titles = tables.method_titles(run)
    by_method = tables.bn_gradient_shares(tables.share_table(run)).groupby("method", sort=False)
    shares = {titles[str(m)]: rows.set_index("network")["share %"] for m, rows in by_method}
    return dominance({title: share.to_dict() for title, share in shares.items()})


def dominance(bn_shares: Mapping[str, Mapping[str, float]]) -> str:
    """Return which methods have a network with nearly all of the BN teachers' gradient.

    Args:
        bn_shares: By method's title and BN teacher, shares of the gradient in any unit.

    Returns:
        A sentence; empty where no network dominates.
    """
    found = []
    for title, networks in bn_shares.items():
        total = sum(networks.values())
        if len(networks) > 1 and total > 0:
            name = max(networks, key=networks.__getitem__)
            share = networks[name] / total
            if share > _DOMINATES:
                found.append(f"{title}: {name} has {share:.0%} of the BN teachers' pull")
    if not found:
        return ""
    remedy = (
        "the others hardly count; bn_distance: relative, or bn_weights, of the recipe change that."
    )
    return f"{'; '.join(found)}: {remedy}"
