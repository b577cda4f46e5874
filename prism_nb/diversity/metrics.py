"""Cosine similarity within a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor


def intra_class_cosine(features: Tensor) -> float:
    """Return the mean pairwise cosine similarity of a class; lower is more diverse.

        2 / (n (n - 1)) * sum over i < j of z_i . z_j,  z normalised to length 1

    (PRISM, arXiv 2511.09905, evaluation.) Features that are never negative, such as those after
    a ReLU, have cosines of 0 and above.

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [-1/(n-1), 1]; NaN under two images, for which it is undefined.
    """
    z, n = normalize_rows(features), len(features)
    if n < 2:
        return UNDEFINED
    # The sum over all pairs is |sum z|^2; the n pairs of an image with itself add |z_i|^2 each.
    return float((z.sum(0).square().sum() - z.square().sum()) / (n * (n - 1)))


def centroid_cosine(features: Tensor) -> float:
    """Return the mean cosine similarity to the class's centroid; lower is more diverse.

        1 / n * sum of z_i . c / |c|,  c = 1 / n * sum of z_i

    which is |c|. (DELT, arXiv 2411.19946, shows this one; it exceeds the pairwise mean.)

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [0, 1]; NaN under two images, which lie on their centroid.
    """
    if len(features) < 2:
        return UNDEFINED
    return float(normalize_rows(features).mean(0).norm())


def vendi_score(features: Tensor) -> float:
    """Return the effective number of different images of a class; higher is more diverse.

        exp(-sum of e log e),  e the eigenvalues of Z Z^T / n,  0 log 0 = 0

    (Friedman and Dieng, arXiv 2210.02410, with the cosine kernel.)

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [1, n]: 1 for equal directions, n for orthogonal ones; NaN under two images,
        where it says nothing, and for features without direction.
    """
    z, n = normalize_rows(features), len(features)
    if n < 2 or not torch.isfinite(z).all():
        return UNDEFINED
    # Z Z^T and Z^T Z have the same eigenvalues but for zeros: take the smaller.
    gram = z @ z.T if n <= z.shape[1] else z.T @ z
    spread = torch.linalg.eigvalsh(gram / n).clamp(min=0)
    return float(torch.special.entr(spread).sum().exp())


def mean_distance_to_centroid(features: Tensor) -> float:
    """Return the mean distance of a class's features to their mean; 0 is collapse.

        1 / n * sum of |f_i - 1 / n * sum of f_j|

    Args:
        features: Penultimate features of one class [n, d], of any length.

    Returns:
        A value of 0 or more, in the network's own unit: compare it with that of as many real
        images. NaN under two images, whose spread is 0 whatever they are.
    """
    if len(features) < 2:
        return UNDEFINED
    rows = features.double()
    return float((rows - rows.mean(0)).norm(dim=1).mean())


def nearest_in_class(features: Tensor) -> float:
    """Return the mean distance of a class's images to their nearest neighbour among themselves.

        1 / n * sum over i of min over j != i of |z_i - z_j|,  z normalised to length 1

    Higher is more diverse; 0 means that every image has a double.

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [0, 2]; NaN under two images.
    """
    if len(features) < 2:
        return UNDEFINED
    z = normalize_rows(features)
    return float(distances(z, z).fill_diagonal_(float("inf")).amin(1).mean())


def nearest_real(features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Find each image's nearest neighbour among real ones, which shows near-copies.

        min over j of |z_i - y_j|,  z and y normalised to length 1

    Args:
        features: Penultimate features of images [n, d].
        real: Those of real images [m, d], m at least 1.

    Returns:
        Distances in [0, 2], float64 [n], NaN where a feature has no direction, and the places of
        the neighbours among `real`, int64 [n].
    """
    nearest = distances(normalize_rows(features), normalize_rows(real)).min(1)
    return nearest.values, nearest.indices


NEIGHBOURS = 5  # k, as the paper chooses it
# A copy of a training image that is a k-th neighbour lies on the rim of a neighbourhood: the
# rounding of features in float32 must not decide whether that is outside.
_RIM = 1e-5


def neighbour_radii(real: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Return each real image's distance to its k-th nearest neighbour, itself not counted.

    Args:
        real: Features of one class's real images [m, d].
        k: Which neighbour.

    Returns:
        float64 [m]; NaN throughout where there are no k neighbours, that is for m <= k.
    """
    if len(real) <= k:
        return torch.full((len(real),), torch.nan, dtype=torch.float64)
    # The image itself is the nearest of all.
    return distances(real, real).kthvalue(k + 1, dim=1).values


def density_coverage(
    features: Tensor, real: Tensor, radii: Tensor, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return how densely real neighbourhoods hold the images, and how many hold one at all.

        density  = 1 / (k n) * sum over j, i of [|f_j - r_i| < radius_i]
        coverage = 1 / m * sum over i of [some j has |f_j - r_i| < radius_i]

    (Naeem et al., ICML 2020, arXiv 2002.09797, with the strict inequality of its program: what
    lies on the rim is outside.) Density rises with fidelity, coverage with diversity; coverage
    also rises with n, so compare equal n.

    Args:
        features: Features of one class's images [n, d], not normalised.
        real: Features of the class's real images [m, d].
        radii: The result of `neighbour_radii` for `real` and `k`.
        k: The neighbours that the radii reach to.

    Returns:
        Density, 0 or more, about 1 for other real images; coverage in [0, 1]. NaN where anything
        is not finite: a comparison with NaN would count as outside.
    """
    apart = distances(features, real)
    if not apart.numel() or not torch.isfinite(apart).all() or not torch.isfinite(radii).all():
        return UNDEFINED, UNDEFINED
    inside = apart < radii * (1 - _RIM)
    return int(inside.sum()) / (k * len(features)), int(inside.any(0).sum()) / len(real)


_ROWS = 1024  # of a kernel matrix at once


def kid(a: Tensor, b: Tensor) -> float:
    """Return the squared maximum mean discrepancy of two sets of features, without bias.

        mean over i != j of k(a_i, a_j) + mean over i != j of k(b_i, b_j)
        - 2 mean over i, j of k(a_i, b_j),  k(x, y) = (x . y / d + 1)^3

    (KID: Binkowski et al., ICLR 2018, arXiv 1801.01401.) Unlike FID its expectation does not
    depend on the number of images, so few will do; for the same reason it may fall below 0.

    Args:
        a: Features of one set [n, d], not normalised.
        b: Features of the other [m, d].

    Returns:
        About 0 for sets of one distribution, more for others, in the network's own unit; NaN
        where a set has under two images.
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return UNDEFINED
    a, b = a.double(), b.double()
    within = (_total(a, a) - _itself(a)) / (n * (n - 1)) + (_total(b, b) - _itself(b)) / (
        m * (m - 1)
    )
    return within - 2 * _total(a, b) / (n * m)


def _total(a: Tensor, b: Tensor) -> float:
    # One buffer for all parts: a sum that is kept behind each would part the freed memory, which
    # then holds no further one.
    kernel, total = a.new_empty(min(_ROWS, len(a)), len(b)), 0.0
    for part in a.split(_ROWS):
        rows = torch.mm(part, b.T, out=kernel[: len(part)])
        total += float(rows.div_(a.shape[1]).add_(1).pow_(3).sum())
    return total


def _itself(a: Tensor) -> float:
    return float((a.square().mean(1) + 1).pow(3).sum())


def top1_hits(logits: Tensor, classes: Tensor) -> Tensor:
    """Return whether each image's top-1 is its class: 1 or 0, float64 [n].

    Args:
        logits: Of one network [n, classes].
        classes: Class index of each image [n].
    """
    return (logits.argmax(1) == classes).double()


def confidence(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the softmax probability of each image's class, in [0, 1], float64 [n].

    Args:
        logits: Of one network [n, classes].
        classes: Class index of each image [n].
    """
    return logits.double().softmax(1).gather(1, classes[:, None])[:, 0]


def all_agree(logits: Tensor) -> Tensor:
    """Return for each image whether all networks name the same class.

    Args:
        logits: Of T networks, T at least 2 [T, n, classes].

    Returns:
        1 or 0, float64 [n].
    """
    named = logits.argmax(-1)
    return (named == named[0]).all(0).double()


def pairs_agree(logits: Tensor) -> Tensor:
    """Return for each image the share of pairs of networks that name the same class.

    Args:
        logits: Of T networks, T at least 2 [T, n, classes].

    Returns:
        Shares in [0, 1], float64 [n].
    """
    named = logits.argmax(-1)
    return torch.stack([(named[a] == named[b]).double() for a, b in _pairs(logits)]).mean(0)


def js_divergence(logits: Tensor) -> Tensor:
    """Return for each image the Jensen-Shannon divergence of two networks, mean over the pairs.

        H((p + q) / 2) - (H(p) + H(q)) / 2,  p and q softmax, H entropy in nats

    (Lin, IEEE Transactions on Information Theory 37, 1991.)

    Args:
        logits: Of T networks, T at least 2 [T, n, classes].

    Returns:
        Values in [0, log 2] nats, float64 [n].
    """
    p = logits.double().softmax(-1)
    apart = [_entropy((p[a] + p[b]) / 2) - _entropy(p[[a, b]]).mean(0) for a, b in _pairs(logits)]
    # Rounding may leave equal networks a hair below 0.
    return torch.stack(apart).mean(0).clamp(min=0)


def _pairs(logits: Tensor) -> list[tuple[int, int]]:
    return list(combinations(range(len(logits)), 2))


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


UNDEFINED = float("nan")


def normalize_rows(features: Tensor) -> Tensor:
    """Return rows [n, d] at length 1, float64; a row of zeros, which has none, becomes NaN."""
    rows = features.double()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances between rows [n, d] and [m, d] as float64 [n, m].

    Differences are taken first, so that equal rows lie at distance 0 exactly.
    """
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.double(), b.double(), compute_mode=mode)


def rows_normalizable(*sets: Tensor) -> bool:
    """Return whether every row of every set is finite and not all zeros."""
    return all(bool(torch.isfinite(normalize_rows(rows)).all()) for rows in sets)


_WORDS = {
    "images": "images per class",
    "real": "real training images per class beside the reference",
    "set": "images in all",
    "real_set": "real training images in all beside the reference",
    "teachers": "teachers in the pool",
}


@dataclass(frozen=True)
class Metric:
    """One measure of a set of images.

    Attributes:
        name: Its name in records.
        title: Its name in tables.
        better: ↓ where lower is better, ↑ where higher; empty where it is read beside the real
            images' value.
        percent: Whether it is a share, shown in percent.
        needs: How many there must be of what, for it to be defined.
    """

    name: str
    title: str
    better: Literal["↓", "↑", ""] = ""
    percent: bool = False
    needs: Mapping[str, int] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """Title, unit and arrow, for the head of a table's column."""
        return " ".join(filter(None, [self.title, "%" if self.percent else "", self.better]))

    def lacks(self, there: Mapping[str, int]) -> str:
        """Say in words why the measure is undefined.

        Args:
            there: How many there are of what.
        """
        for what, least in self.needs.items():
            if there[what] < least:
                return f"needs {least} {_WORDS[what]}, and the number here is {there[what]}"
        return "a network's outputs are not finite, or features are all zero"


_PAIR = {"images": 2}
_MANIFOLD = {"real": NEIGHBOURS + 1}
_TEACHERS = {"teachers": 2}

_SPREAD = (
    Metric("cosine", "intra-class cosine", "↓", needs=_PAIR),
    Metric("centroid_cosine", "cosine to centroid", "↓", needs=_PAIR),
    Metric("vendi", "Vendi score", "↑", needs=_PAIR),
    Metric("vendi_per_image", "Vendi / n", "↑", needs=_PAIR),
    Metric("radius", "radius", needs=_PAIR),
    Metric("nearest_within", "nearest in class", "↑", needs=_PAIR),
    Metric("density", "density", needs=_MANIFOLD),
    Metric("coverage", "coverage", "↑", needs=_MANIFOLD),
    Metric("nearest_real", "nearest training image", needs={"real": 1}),
)
_FIDELITY = (
    Metric("recognised", "recognised", "↑", percent=True),
    Metric("confidence", "confidence", "↑", percent=True),
)
OF_TEACHERS = (
    Metric("all_agree", "all teachers agree", percent=True, needs=_TEACHERS),
    Metric("pairs_agree", "pairs agree", percent=True, needs=_TEACHERS),
    Metric("divergence", "divergence (nats)", needs=_TEACHERS),
)
KID = Metric("kid", "KID", "↓", needs={"set": 2, "real_set": 2})
OF_CLASSES = (*_SPREAD, *_FIDELITY)
IN_SPACE = (*_SPREAD, KID, *_FIDELITY)
METRICS = {measure.name: measure for measure in (*IN_SPACE, *OF_TEACHERS)}
