"""What results show, in sentences: chance, who leads, the random control, dominant networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd
from scipy import stats

from prism_nb.core.settings import Settings
from prism_nb.data.registry import open_dataset
from prism_nb.viz.tables import random_method

MIN_REPEATS = 3  # seeds or replicates that a verdict and an interval need
_DOMINATES = 0.9  # share of the BN teachers' gradient


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
    below = random_sentence(accuracies, random_method(settings), titles, over)
    return f"{sentence}. {below}".strip()


def _is_control(settings: Settings, method: str) -> bool:
    return settings.recipe_of(method).image_source == "initial"


def can_decide(accuracies: pd.DataFrame, settings: Settings) -> bool:
    """Return whether some method is above chance and there are enough repeats for a verdict."""
    above = accuracies.mean().max() > chance_limit(settings)
    return bool(above) and len(accuracies) >= MIN_REPEATS


def undecided(accuracies: pd.DataFrame) -> list[str]:
    """Return the methods that are not told apart from the one of the best mean."""
    best = str(accuracies.mean().idxmax())
    gaps = accuracies.drop(columns=best).rsub(accuracies[best], axis=0)
    return [str(method) for method in gaps.columns[~_told_apart(gaps)]]


def _told_apart(gaps: pd.DataFrame) -> pd.Series:
    """Return of each column whether 0 is outside the 95 % interval (Student's t) of its mean."""
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.sem()  # NaN for one row
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


# -- networks --------------------------------------------------------------------------------


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
