"""Diversity and fidelity metrics: their functions, and the table `METRICS` at the end.

To add a metric, write its function and a line in the table: the stage records it, and tables,
figures and the report show it.

`features` are penultimate features (inputs of a network's last linear layer) of the n images of
one class [n, d]; `real` are those of real images [m, d]; `logits` are a network's [n, classes], or
those of T networks [T, n, classes]. In formulas f is a feature and z = f / |f|.

Values are computed in float64. They are NaN where they are undefined: for too few images or
networks, for outputs that are not finite, and where a feature of zeros has no z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

UNDEFINED = float("nan")


@dataclass(frozen=True)
class Metric:
    """A metric: its function, its names and its direction.

    Attributes:
        name: Key in records.
        title: Name in tables and figures.
        compute: Function of what `scope` names. `class`: `ClassOutputs`. `set`: features of all
            images [n, d] and of real ones [m, d]. `teachers`: logits of the pool for one class
            [teachers, n, classes]. Values per image are averaged.
        better: ↓ where lower is better, ↑ where higher; empty where the value is compared with
            that of real images.
        needs: The least data for which it is defined.
        percent: Whether it is a share, shown in percent.
        relative: Whether it is shown as a multiple of the real images' value.
        scope: `class`, `set` or `teachers`.
    """

    name: str
    title: str
    compute: Callable[..., float | Tensor]
    better: Literal["↓", "↑", ""] = ""
    needs: str = "1 image per class"
    percent: bool = False
    relative: bool = False
    scope: Literal["class", "set", "teachers"] = "class"

    @property
    def heading(self) -> str:
        """Title, unit and arrow, for a table."""
        unit = "%" if self.percent else "/ real" if self.relative else ""
        return " ".join(filter(None, [self.title, unit, self.better]))

    def value(self, *data: ClassOutputs | Tensor) -> float:
        """Return the metric of what `compute` takes; NaN where it is undefined."""
        return float(torch.as_tensor(self.compute(*data), dtype=torch.float64).mean())

    @property
    def why_undefined(self) -> str:
        """What a defined value needs."""
        return f"needs {self.needs}, and finite outputs that are not all zero"


@dataclass(frozen=True)
class ClassOutputs:
    """A network's outputs for the images of one class, and the real images of that class.

    Attributes:
        label: Index of the class.
        features: Penultimate features of the images [n, d].
        logits: Logits of the images [n, classes].
        real: Features of real training images besides the reference [m, d].
        radii: Result of `neighbour_radii` for `real` [m].
        nearest: Distance of each image to its nearest training image, see `nearest_real` [n].
    """

    label: int
    features: Tensor
    logits: Tensor
    real: Tensor
    radii: Tensor
    nearest: Tensor

    @cached_property
    def density_coverage(self) -> tuple[float, float]:
        """Density and coverage, which share their distances."""
        return density_coverage(self.features, self.real, self.radii)


def normalize_rows(features: Tensor) -> Tensor:
    """Return rows [n, d] at length 1, float64; a row of zeros becomes NaN."""
    rows = features.double()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances between rows [n, d] and [m, d] as float64 [n, m].

    Differences are taken first, so that equal rows lie at distance 0 exactly.
    """
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.double(), b.double(), compute_mode=mode)


def intra_class_cosine(features: Tensor) -> float:
    """Return the mean pairwise cosine similarity of a class; lower is more diverse.

        2 / (n (n - 1)) * sum over i < j of z_i . z_j

    (PRISM, arXiv 2511.09905, evaluation.) In [-1/(n-1), 1]; at least 0 for features that are
    never negative, such as those after a ReLU. NaN under two images.
    """
    z, n = normalize_rows(features), len(features)
    if n < 2:
        return UNDEFINED
    # The sum over all pairs is |sum z|^2; the n pairs of an image with itself add |z_i|^2 each.
    return float((z.sum(0).square().sum() - z.square().sum()) / (n * (n - 1)))


def centroid_cosine(features: Tensor) -> float:
    """Return the mean cosine similarity to the class's centroid; lower is more diverse.

        1 / n * sum of z_i . c / |c|,  c = 1 / n * sum of z_i

    which is |c|. (DELT, arXiv 2411.19946; it exceeds the pairwise mean.) In [0, 1]; NaN under two
    images.
    """
    if len(features) < 2:
        return UNDEFINED
    return float(normalize_rows(features).mean(0).norm())


def vendi_score(features: Tensor) -> float:
    """Return the effective number of different images of a class; higher is more diverse.

        exp(-sum of e log e),  e the eigenvalues of Z Z^T / n,  0 log 0 = 0

    (Friedman and Dieng, arXiv 2210.02410, with the cosine kernel.) In [1, n]: 1 for equal
    directions, n for orthogonal ones. NaN under two images.
    """
    z, n = normalize_rows(features), len(features)
    if n < 2 or not torch.isfinite(z).all():
        return UNDEFINED
    # Z Z^T and Z^T Z have the same eigenvalues but for zeros: take the smaller.
    gram = z @ z.T if n <= z.shape[1] else z.T @ z
    eigenvalues = torch.linalg.eigvalsh(gram / n).clamp(min=0)
    return float(torch.special.entr(eigenvalues).sum().exp())


def mean_distance_to_centroid(features: Tensor) -> float:
    """Return the mean distance of a class's features to their mean; 0 is collapse.

        1 / n * sum of |f_i - 1 / n * sum of f_j|

    At least 0, in the network's own unit: compare it with that of as many real images. NaN under
    two images.
    """
    if len(features) < 2:
        return UNDEFINED
    rows = features.double()
    return float((rows - rows.mean(0)).norm(dim=1).mean())


def nearest_in_class(features: Tensor) -> float:
    """Return the mean distance of images to their nearest neighbour in the class.

        1 / n * sum over i of min over j != i of |z_i - z_j|

    In [0, 2]; higher is more diverse, 0 means that every image has a duplicate. NaN under two
    images.
    """
    if len(features) < 2:
        return UNDEFINED
    z = normalize_rows(features)
    return float(distances(z, z).fill_diagonal_(float("inf")).amin(1).mean())


def nearest_real(features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's distance to its nearest real image, and which one that is.

        min over j of |z_i - y_j|,  y the normalized features of real images

    A distance near 0 reveals a copy.

    Returns:
        Distances in [0, 2], float64 [n], NaN for an image without z, and for all where m is 0 or
        a real image has no z. Rows of `real`, int64 [n]; meaningless where the distance is NaN.
    """
    n = len(features)
    if not len(real):
        return torch.full((n,), UNDEFINED, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    nearest = distances(normalize_rows(features), normalize_rows(real)).min(1)
    return nearest.values, nearest.indices


NEIGHBOURS = 5  # k of density and coverage, as in their paper
# A copy of a training image that is a k-th neighbour lies on the edge of a neighbourhood: the
# rounding of features in float32 must not decide whether that is outside.
_TOLERANCE = 1e-5


def neighbour_radii(real: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Return each real image's distance to its k-th nearest neighbour, itself not counted.

    float64 [m]; NaN throughout for m <= k.
    """
    if len(real) <= k:
        return torch.full((len(real),), UNDEFINED, dtype=torch.float64)
    # The image itself is the nearest of all.
    return distances(real, real).kthvalue(k + 1, dim=1).values


def density_coverage(
    features: Tensor, real: Tensor, radii: Tensor, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return how densely real neighbourhoods hold the images, and how many hold one at all.

        density  = 1 / (k n) * sum over j, i of [|f_j - r_i| < radius_i]
        coverage = 1 / m * sum over i of [some j has |f_j - r_i| < radius_i]

    (Naeem et al., ICML 2020, arXiv 2002.09797, with the strict inequality of their program.)
    Density is at least 0, about 1 for other real images, and rises with fidelity. Coverage is in
    [0, 1] and rises with diversity, and also with n, so compare equal n.
    Both are NaN where a distance or radius is not finite.

    Args:
        features: Features of one class's images [n, d].
        real: Features of the class's real images [m, d].
        radii: Result of `neighbour_radii` for `real` and `k`.
        k: The neighbour that the radii reach to.
    """
    apart = distances(features, real)
    if not apart.numel() or not torch.isfinite(apart).all() or not torch.isfinite(radii).all():
        return UNDEFINED, UNDEFINED
    inside = apart < radii * (1 - _TOLERANCE)
    return int(inside.sum()) / (k * len(features)), int(inside.any(0).sum()) / len(real)


_ROWS = 1024  # of a kernel matrix at once


def kid(a: Tensor, b: Tensor) -> float:
    """Return the kernel inception distance: the unbiased squared MMD of two sets of features.

        mean over i != j of k(a_i, a_j) + mean over i != j of k(b_i, b_j)
        - 2 mean over i, j of k(a_i, b_j),  k(x, y) = (x . y / d + 1)^3

    (Binkowski et al., ICLR 2018, arXiv 1801.01401.) About 0 for sets of one distribution, more
    for others, in the network's own unit. Unlike FID its expectation does not depend on the
    number of images; for the same reason it may fall below 0. NaN under two images in a set.
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return UNDEFINED
    a, b = a.double(), b.double()
    within_a = (_kernel_sum(a, a) - _kernel_trace(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel_trace(b)) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b) / (n * m)


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    # One buffer for all chunks: freed ones of different sizes would fragment the memory.
    buffer, total = a.new_empty(min(_ROWS, len(a)), len(b)), 0.0
    for chunk in a.split(_ROWS):
        kernel = torch.mm(chunk, b.T, out=buffer[: len(chunk)])
        total += float(kernel.div_(a.shape[1]).add_(1).pow_(3).sum())
    return total


def _kernel_trace(a: Tensor) -> float:
    return float((a.square().mean(1) + 1).pow(3).sum())


def top1_hits(logits: Tensor, label: int) -> Tensor:
    """Return whether each image's top-1 is the class `label`: 1 or 0, float64 [n]."""
    return _where_finite((logits.argmax(1) == label).double(), logits)


def confidence(logits: Tensor, label: int) -> Tensor:
    """Return each image's softmax probability of the class `label`, in [0, 1], float64 [n]."""
    return _where_finite(logits.double().softmax(1)[:, label], logits)


def all_agree(logits: Tensor) -> Tensor:
    """Return for each image whether all networks have the same top-1: 1 or 0, float64 [n]."""
    top1 = logits.argmax(-1)
    return _of_pool((top1 == top1[0]).all(0).double(), logits)


def pairs_agree(logits: Tensor) -> Tensor:
    """Return for each image the share of pairs of networks with the same top-1, float64 [n]."""
    top1 = logits.argmax(-1)
    same = [(top1[a] == top1[b]).double() for a, b in _pairs(logits)]
    return _of_pool(torch.stack(same).mean(0), logits)


def js_divergence(logits: Tensor) -> Tensor:
    """Return for each image the Jensen-Shannon divergence of two networks, mean over the pairs.

        H((p + q) / 2) - (H(p) + H(q)) / 2,  p and q softmax, H entropy in nats

    (Lin, IEEE Transactions on Information Theory 37, 1991.) In [0, log 2] nats, float64 [n].
    """
    p = logits.double().softmax(-1)
    apart = [_entropy((p[a] + p[b]) / 2) - _entropy(p[[a, b]]).mean(0) for a, b in _pairs(logits)]
    # Rounding may leave equal networks a hair below 0.
    return _of_pool(torch.stack(apart).mean(0).clamp(min=0), logits)


def _pairs(logits: Tensor) -> list[tuple[int, int]]:
    """Return all pairs of networks; of one network the pair with itself, which is left out."""
    return list(combinations(range(len(logits)), 2)) or [(0, 0)]


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def _of_pool(values: Tensor, logits: Tensor) -> Tensor:
    """Return values per image [n], NaN for one network or logits that are not finite."""
    defined = logits.isfinite().all(-1).all(0) & (len(logits) > 1)
    return values.where(defined, UNDEFINED)


def _where_finite(values: Tensor, logits: Tensor) -> Tensor:
    return values.where(logits.isfinite().all(-1), UNDEFINED)


_TWO = "2 images per class"
_REAL = f"{NEIGHBOURS + 1} real training images per class besides the reference"
_ONE_REAL = "1 real training image per class to compare with"
_SETS = "2 images, and 2 real training images besides the reference"
_POOL = "2 teachers in the pool"

_TABLE = (
    Metric("cosine", "intra-class cosine", lambda c: intra_class_cosine(c.features), "↓", _TWO),
    Metric(
        "centroid_cosine", "cosine to centroid", lambda c: centroid_cosine(c.features), "↓", _TWO
    ),
    Metric("vendi", "Vendi score", lambda c: vendi_score(c.features), "↑", _TWO),
    Metric(
        "vendi_per_image",
        "Vendi / n",
        lambda c: vendi_score(c.features) / len(c.features),
        "↑",
        _TWO,
    ),
    Metric(
        "radius",
        "radius",
        lambda c: mean_distance_to_centroid(c.features),
        needs=_TWO,
        relative=True,
    ),
    Metric(
        "nearest_in_class", "nearest in class", lambda c: nearest_in_class(c.features), "↑", _TWO
    ),
    Metric("density", "density", lambda c: c.density_coverage[0], "", _REAL),
    Metric("coverage", "coverage", lambda c: c.density_coverage[1], "↑", _REAL),
    Metric("nearest_real", "nearest training image", lambda c: c.nearest, "", _ONE_REAL),
    Metric("kid", "KID", kid, "↓", _SETS, scope="set"),
    Metric("recognised", "recognised", lambda c: top1_hits(c.logits, c.label), "↑", percent=True),
    Metric("confidence", "confidence", lambda c: confidence(c.logits, c.label), "↑", percent=True),
    Metric("all_agree", "all teachers agree", all_agree, "", _POOL, percent=True, scope="teachers"),
    Metric("pairs_agree", "pairs agree", pairs_agree, "", _POOL, percent=True, scope="teachers"),
    Metric("js_divergence", "JS divergence (nats)", js_divergence, "", _POOL, scope="teachers"),
)
METRICS = {metric.name: metric for metric in _TABLE}


def metrics_of(*scopes: str) -> tuple[Metric, ...]:
    """Return the metrics of some scopes, in the table's order."""
    return tuple(metric for metric in _TABLE if metric.scope in scopes)
