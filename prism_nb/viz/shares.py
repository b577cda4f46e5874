"""Networks' shares of the gradient on the images, in short names and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

_DOMINATES = 0.9


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


def short_names(networks: Sequence[str]) -> dict[str, str]:
    """Return the architectures of networks by name, with weights' names where those differ only so.

    Libraries and folders of weights files are left out, unless two names would be the same.
    """
    short = {name: name.partition("@")[0].rpartition("/")[2] for name in networks}
    with_weights = {
        name: f"{short[name]}@{name.partition('@')[2].rpartition('/')[2]}".removesuffix("@")
        for name in short
    }
    for longer in (with_weights, {name: name for name in short}):
        count = Counter(short.values())
        short = {name: longer[name] if count[each] > 1 else each for name, each in short.items()}
    return short
