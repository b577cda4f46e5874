"""Coresets: orders in which a class's real images are taken, by a score or greedily."""

from __future__ import annotations

import numpy as np


def el2n_scores(logits: np.ndarray, class_index: int) -> np.ndarray:
    """Return each image's error, ||softmax(logits) - onehot||_2, float64 [n].

    The error of the true class is the sum of the other probabilities, which has digits left where
    p rounds to 1 (Paul et al., Deep Learning on a Data Diet, NeurIPS 2021).

    Args:
        logits: Logits of the dataset's classes [n, classes].
        class_index: The images' class.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    others = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    others[:, class_index] = 0
    scores: np.ndarray = np.sqrt(others.sum(axis=1) ** 2 + (others**2).sum(axis=1))
    return scores


def herding(features: np.ndarray, count: int) -> list[int]:
    """Choose images whose mean feature stays nearest to that of all, one after another.

    The k-th is argmin over those left of ||mean - (sum of the chosen + its own) / k|| (Welling,
    ICML 2009; Rebuffi et al., iCaRL, CVPR 2017), without normalization of the features.

    Args:
        features: Features of a class [n, d].
        count: Images to choose, at most n.

    Returns:
        Rows of the images, in the order of choice; the first of those that are equally near.
    """
    features = features.astype(np.float64)
    mean, total, chosen = features.mean(axis=0), np.zeros(features.shape[1]), list[int]()
    for k in range(1, count + 1):
        gaps = np.linalg.norm(mean - (total + features) / k, axis=1)
        gaps[chosen] = np.inf
        chosen.append(int(gaps.argmin()))
        total += features[chosen[-1]]
    return chosen


def k_center(features: np.ndarray, count: int) -> list[int]:
    """Choose the image nearest to the mean, then always the one farthest from those chosen.

    Greedy k-centre (Sener & Savarese, ICLR 2018); arguments and result as of `herding`.
    """
    features, chosen = features.astype(np.float64), herding(features, 1)
    nearest = np.full(len(features), np.inf)
    while len(chosen) < count:
        gaps = np.linalg.norm(features - features[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, gaps)
        nearest[chosen] = -1  # features of two images may be equal
        chosen.append(int(nearest.argmax()))
    return chosen


GREEDY = {"herding": herding, "k_center": k_center}  # by `init`; they take features
