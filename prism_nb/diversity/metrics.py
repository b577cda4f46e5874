"""Diversity and fidelity metrics: their functions, and the table `METRICS` at the end.

The stage records every row of the table; tables, figures and the report show it.

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
    """A metric: its function, its names and its direction."""

    name: str  # key in records
    title: str  # name in tables and figures
    # Function of what `scope` names. `class`: `ClassOutputs`. `set`: features of all images [n, d]
    # and of real ones [m, d]. `teachers`: logits of the pool for one class [teachers, n, classes].
    # Values per image are averaged.
    compute: Callable[..., float | Tensor]
    # ↓ where lower is better, ↑ where higher; empty where the value is compared with that of real
    # images
    better: Literal["↓", "↑", ""] = ""
    needs: str = "1 image per class"  # the least data for which it is defined
    percent: bool = False  # whether it is a share, shown in percent
    relative: bool = False  # whether it is shown as a multiple of the real images' value
    scope: Literal["class", "set", "teachers"] = "class"  # `class`, `set` or `teachers`

    @property
    def heading(self) -> str:
        """Title, unit and arrow, for a table."""
        unit = "%" if self.percent else "/ real" if self.relative else ""
        return " ".join(filter(None, [self.title, unit, self.better]))

    def value(self, *data: ClassOutputs | Tensor) -> float:
        """Return the metric of what `compute` takes; NaN where it is undefined."""
        return float(torch.as_tensor(self.compute(*data), dtype=torch.float64).mean())

    @property
    def favours_noise(self) -> bool:
        """Whether it compares the images of a class with each other, and noise is better."""
        return bool(self.better) and self.needs == _TWO

    @property
    def why_undefined(self) -> str:
        """What a defined value needs."""
        return f"needs {self.needs}, and finite outputs that are not all zero"


@dataclass(frozen=True)
class ClassOutputs:
    """A network's outputs for the images of one class, and the real images of that class."""

    label: int  # index of the class among the logits
    features: Tensor  # penultimate features of the images [n, d]
    logits: Tensor  # logits of the images, of the network's whole head [n, head]
    real: Tensor  # features of real training images besides the reference [m, d]
    radii: Tensor  # result of `neighbour_radii` for `real` [m]
    nearest: Tensor  # distance of each image to its nearest training image, see `nearest_real` [n]

    @cached_property
    def recognised(self) -> Tensor:
        """Features of the images whose top-1 is the class [k, d]."""
        return self.features[top1_hits(self.logits, self.label) == 1]

    @cached_property
    def density_coverage(self) -> tuple[float, float]:
        """Density and coverage, which share their distances."""
        return density_coverage(self.features, self.real, self.radii)


def normalize_rows(features: Tensor) -> Tensor:
    """Return rows [n, d] at length 1, float64; a row of zeros becomes NaN."""
    rows = features.double()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances of rows [n, d] and [m, d], float64 [n, m]; 0 of equal rows."""
    mode = "donot_use_mm_for_euclid_dist"  # differences first, not scalar products
    return torch.cdist(a.double(), b.double(), compute_mode=mode)


def intra_class_cosine(features: Tensor) -> float:
    """Return the mean pairwise cosine similarity of a class; NaN under two images.

        2 / (n (n - 1)) * sum over i < j of z_i . z_j   (PRISM, arXiv 2511.09905)

    In [-1/(n-1), 1]; at least 0 for features after a ReLU.
    """
    z, n = normalize_rows(features), len(features)
    if n < 2:
        return UNDEFINED
    # The sum over all pairs is |sum z|^2; the n pairs of an image with itself add |z_i|^2 each.
    return float((z.sum(0).square().sum() - z.square().sum()) / (n * (n - 1)))


def centroid_cosine(features: Tensor) -> float:
    """Return the mean cosine similarity to the class's centroid; NaN under two images.

        1 / n * sum of z_i . c / |c| = |c|,  c = 1 / n * sum of z_i   (DELT, arXiv 2411.19946)

    In [0, 1], and above the pairwise mean.
    """
    if len(features) < 2:
        return UNDEFINED
    return float(normalize_rows(features).mean(0).norm())


def vendi_score(features: Tensor) -> float:
    """Return the effective number of different images of a class; NaN under two images.

        exp(-sum of e log e),  e the eigenvalues of Z Z^T / n,  0 log 0 = 0

    (Friedman and Dieng, arXiv 2210.02410, with the cosine kernel.) In [1, n]: 1 for equal
    directions, n for orthogonal ones.
    """
    z, n = normalize_rows(features), len(features)
    if n < 2 or not torch.isfinite(z).all():
        return UNDEFINED
    # Z Z^T and Z^T Z have the same eigenvalues but for zeros: take the smaller.
    gram = z @ z.T if n <= z.shape[1] else z.T @ z
    eigenvalues = torch.linalg.eigvalsh(gram / n).clamp(min=0)
    return float(torch.special.entr(eigenvalues).sum().exp())


def recognised_vendi(outputs: ClassOutputs) -> float:
    """Return the effective number of different images among the recognised ones.

    Their Vendi score; their number where that is below two, so that noise has 0.
    """
    if not torch.isfinite(outputs.logits).all():
        return UNDEFINED
    count = len(outputs.recognised)
    return float(count) if count < 2 else vendi_score(outputs.recognised)


def mean_distance_to_centroid(features: Tensor) -> float:
    """Return the mean distance of a class's features to their mean; NaN under two images.

        1 / n * sum of |f_i - 1 / n * sum of f_j|

    At least 0, where 0 is collapse, in the network's own unit.
    """
    if len(features) < 2:
        return UNDEFINED
    rows = features.double()
    return float((rows - rows.mean(0)).norm(dim=1).mean())


def nearest_in_class(features: Tensor) -> float:
    """Return the mean distance of images to their nearest neighbour in the class.

        1 / n * sum over i of min over j != i of |z_i - z_j|

    In [0, 2]; 0 means that every image has a duplicate. NaN under two images.
    """
    if len(features) < 2:
        return UNDEFINED
    z = normalize_rows(features)
    return float(distances(z, z).fill_diagonal_(float("inf")).amin(1).mean())


def nearest_real(features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's distance to its nearest real image, and the row of that.

        min over j of |z_i - y_j|,  y the normalized features of real images

    Distances in [0, 2], float64 [n], NaN for an image without z, and for all where m is 0 or a real
    image has no z; rows, int64 [n], meaningless where the distance is NaN.
    """
    if not len(real):
        real = torch.full_like(features[:1], UNDEFINED)
    nearest = distances(normalize_rows(features), normalize_rows(real)).min(1)
    return nearest.values, nearest.indices


NEIGHBOURS = 5  # k of density and coverage, as in their paper
# A copy of a training image that is a k-th neighbour lies on the edge of a neighbourhood: the
# rounding of features in float32 must not decide whether that is outside.
_TOLERANCE = 1e-5


def neighbour_radii(real: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Return each real image's distance to its k-th nearest other, float64 [m]; NaN for m <= k."""
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
    [0, 1] and rises with diversity, and also with n. Both are NaN where a distance or one of the
    `radii`, the result of `neighbour_radii` for `real` and `k`, is not finite.
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
    for others, in the network's own unit; its expectation does not depend on the number of images,
    so it may fall below 0. NaN under two images in a set.
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


def pairs_agree(logits: Tensor) -> Tensor:
    """Return for each image the share of pairs of networks with the same top-1, float64 [n]."""
    return _over_pairs(logits, lambda a, b: (a.argmax(-1) == b.argmax(-1)).double())


def all_agree(logits: Tensor) -> Tensor:
    """Return for each image whether all networks have the same top-1: 1 or 0, float64 [n]."""
    return pairs_agree(logits).floor()


def js_divergence(logits: Tensor) -> Tensor:
    """Return for each image the Jensen-Shannon divergence of two networks, mean over the pairs.

        H((p + q) / 2) - (H(p) + H(q)) / 2,  p and q softmax, H entropy in nats

    (Lin, IEEE Transactions on Information Theory 37, 1991.) In [0, log 2] nats, float64 [n].
    """
    # Rounding may leave equal networks a hair below 0.
    return _over_pairs(logits, _divergence).clamp(min=0)


def _divergence(a: Tensor, b: Tensor) -> Tensor:
    p, q = a.double().softmax(-1), b.double().softmax(-1)
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def _over_pairs(logits: Tensor, compare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return a comparison of two networks per image, mean over their pairs [n]."""
    pairs = [compare(a, b) for a, b in combinations(logits, 2)]
    if not pairs:
        return torch.full(logits.shape[1:2], UNDEFINED, dtype=torch.float64)
    return _where_finite(torch.stack(pairs).mean(0), logits.movedim(0, -1).flatten(1))


def _where_finite(values: Tensor, logits: Tensor) -> Tensor:
    return values.where(logits.isfinite().all(-1), UNDEFINED)


def _of_features(function: Callable[[Tensor], float]) -> Callable[[ClassOutputs], float]:
    return lambda outputs: function(outputs.features)


_TWO = "2 images per class"
_TWO_RECOGNISED = "2 recognised images per class"
_REAL = f"{NEIGHBOURS + 1} real training images per class besides the reference"
_ONE_REAL = "1 real training image per class to compare with"
_SETS = "2 images, and 2 real training images besides the reference"
_POOL = "2 teachers in the pool"

_TABLE = (
    Metric("cosine", "intra-class cosine", _of_features(intra_class_cosine), "↓", _TWO),
    Metric(
        "cosine_recognised",
        "cosine of the recognised images",
        lambda c: intra_class_cosine(c.recognised),
        "↓",
        _TWO_RECOGNISED,
    ),
    Metric("centroid_cosine", "cosine to centroid", _of_features(centroid_cosine), "↓", _TWO),
    Metric("vendi", "Vendi score", _of_features(vendi_score), "↑", _TWO),
    Metric("vendi_recognised", "Vendi score of the recognised images", recognised_vendi, "↑"),
    Metric(
        "vendi_per_image", "Vendi / n", _of_features(lambda f: vendi_score(f) / len(f)), "↑", _TWO
    ),
    Metric("radius", "radius", _of_features(mean_distance_to_centroid), "", _TWO, relative=True),
    Metric("nearest_in_class", "nearest in class", _of_features(nearest_in_class), "↑", _TWO),
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
